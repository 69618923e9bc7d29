"""The names of all files and folders that a run leaves in its folder.

docs/report.md and docs/exchange.md say what each one holds.
"""

from __future__ import annotations

# Held by the process that writes the folder; see `fedlearn.records.writing.owned`.
LOCK_FILE = ".lock"

# What every run writes.
CONFIG_FILE = "config.toml"
MANIFEST_FILE = "manifest.json"
LINES_FILE = "metrics.jsonl"
SUMMARY_FILE = "summary.json"
MODEL_FILE = "model.safetensors"

# What is drawn from the files above, and can be drawn again.
PLOTS_FOLDER = "plots"
PAGE_FILE = "report.html"

# What --profile and --trace add.
PROFILE_FILE = "profile.json"
TRACE_FILE = "trace.json"

# The last two checkpoints, and what is kept of each client between its rounds.
CHECKPOINT_FOLDER = "checkpoint"
STATES_FILE = f"{CHECKPOINT_FOLDER}/states.sqlite"
RESIDUALS_FILE = f"{CHECKPOINT_FOLDER}/residuals.f32"
COPIES_FILE = f"{CHECKPOINT_FOLDER}/copies.f32"
VERSIONS_FILE = f"{CHECKPOINT_FOLDER}/seen.sqlite"
CAST_FOLDER = f"{CHECKPOINT_FOLDER}/cast"

# What a run over real agents writes besides.
RUN_ID_FILE = "run_id"
ADDRESS_FILE = "address.json"
JOURNAL_FOLDER = "journal"
PKI_FOLDER = "pki"
AGENTS_FOLDER = "agents"
CLIENTS_FILE = "clients.json"
DEVICES_FILE = "devices.json"
LOG_FILE = "fleet.log"
# The log becomes this one when it has grown to its limit, and a new one begins.
OLD_LOG_FILE = f"{LOG_FILE}.1"

# What a run leaves in its folder before its config is written. A folder that holds no
# more than this is that of a run killed while it started: it may be used again.
BEFORE_CONFIG = (
    LOCK_FILE,
    f".{CONFIG_FILE}.part",
    CHECKPOINT_FOLDER,
    JOURNAL_FOLDER,
    PKI_FOLDER,
    AGENTS_FOLDER,
    RUN_ID_FILE,
    ADDRESS_FILE,
    LOG_FILE,
    OLD_LOG_FILE,
)
