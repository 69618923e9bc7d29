"""The names of all files and folders that a run leaves in its folder.

docs/report.md and docs/exchange.md say what each one holds.
"""

from __future__ import annotations

from fnmatch import fnmatch

# Held by the process that writes the folder; see `fedlearn.records.writing.owned`.
LOCK_FILE = ".lock"

# Every run writes the next five. First its config, every key as it was used.
CONFIG_FILE = "config.toml"
# Versions, platform, engine, data and partition, seed, start.
MANIFEST_FILE = "manifest.json"
# One line per round; see `fedlearn.records.line`.
LINES_FILE = "metrics.jsonl"
# The results. It is missing while the run is unfinished.
SUMMARY_FILE = "summary.json"
# The model after the last round.
MODEL_FILE = "model.safetensors"
BEST_FILE = "best.safetensors"

# What ended a run before its rounds were over, in its summary.
PATIENCE = "patience"

# What is drawn from the files above, and can be drawn again.
PLOTS_FOLDER = "plots"
PAGE_FILE = "report.html"

# What --profile and --trace add.
PROFILE_FILE = "profile.json"
TRACE_FILE = "trace.json"

# The last two checkpoints, and what is kept of each client between its rounds.
CHECKPOINT_FOLDER = "checkpoint"
# What ClientApps keep between rounds.
STATES_FILE = f"{CHECKPOINT_FOLDER}/states.sqlite"
# What error feedback carries over to each client's next update.
RESIDUALS_FILE = f"{CHECKPOINT_FOLDER}/residuals.f32"
# The model that each client holds, for differences from it.
COPIES_FILE = f"{CHECKPOINT_FOLDER}/copies.f32"
# With downlink = "cast": how far each client is in the series of differences, and the payloads
# of the series, where there are agents to send them to.
VERSIONS_FILE = f"{CHECKPOINT_FOLDER}/seen.sqlite"
CAST_FOLDER = f"{CHECKPOINT_FOLDER}/cast"

# A run over real agents writes the following besides. Its agents know it by this id, 16 bytes in
# hexadecimal, also after the coordinator was started anew.
RUN_ID_FILE = "run_id"
# Where agents attend: a restart listens at the same ports.
ADDRESS_FILE = "address.json"
# Every answer, on disk before it is acknowledged.
JOURNAL_FOLDER = "journal"
# The authority of a run that only local agents attend.
PKI_FOLDER = "pki"
# The folders of local agents, by client.
AGENTS_FOLDER = "agents"
# What each client was asked, and what came of it.
CLIENTS_FILE = "clients.json"
# What agents told of their devices.
DEVICES_FILE = "devices.json"
# One line per event.
LOG_FILE = "fleet.log"
# The log becomes this one when it has grown to its limit, and a new one begins.
OLD_LOG_FILE = f"{LOG_FILE}.1"

# A run of a Flower app has no config: this file says what it was started with.
APP_FILE = "app.json"

# What a run leaves in its folder before its config is written. A folder that holds no
# more than this is that of a run killed while it started: it may be used again.
BEFORE_CONFIG = (
    LOCK_FILE,
    CHECKPOINT_FOLDER,
    JOURNAL_FOLDER,
    PKI_FOLDER,
    AGENTS_FOLDER,
    RUN_ID_FILE,
    ADDRESS_FILE,
    LOG_FILE,
    OLD_LOG_FILE,
    CLIENTS_FILE,
    DEVICES_FILE,
)

# What a kill leaves of a file that is being replaced, and of an authority that is being made.
_UNFINISHED = (".*.part", f".{PKI_FOLDER}.*")


def is_unfinished(name: str) -> bool:
    """Tell whether a name in a run folder is of something that was never whole.

    Nobody reads it, and whoever writes it next begins anew.
    """
    return any(fnmatch(name, pattern) for pattern in _UNFINISHED)


def is_before_config(name: str) -> bool:
    """Tell whether a run may leave this name in its folder before its config is written."""
    return name in BEFORE_CONFIG or is_unfinished(name)
