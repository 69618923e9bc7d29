"""The page of one run: ``report.html``, one file that needs nothing else and asks no network."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from fedlearn.records.names import (
    CONFIG_FILE,
    MANIFEST_FILE,
    PAGE_FILE,
    PLOTS_FOLDER,
)
from fedlearn.records.reading import RunRecord, amount, finite, read, section
from fedlearn.reporting.agents import agents
from fedlearn.reporting.baseline import baseline_warning
from fedlearn.reporting.devices_page import devices
from fedlearn.reporting.html import (
    Html,
    element,
    folded,
    picture,
    section_of,
    table,
    tile,
    write_document,
)
from fedlearn.reporting.page_tables import (
    bytes_table,
    codec_table,
    failures,
    rounds_table,
)
from fedlearn.reporting.results import Results, expectations_of, results
from fedlearn.reporting.units import (
    MISSING,
    against_raw,
    bytes_text,
    count_text,
    number_text,
    percent_text,
    time_text,
)

# Picture → what it shows, in the order of the page.
CAPTIONS = {
    "accuracy_rounds": (
        "Accuracy on held-out data after each evaluated round; the star marks the best."
    ),
    "accuracy_bytes": (
        "The same accuracy over the bytes of both directions, "
        "as encoded and as plain float32."
    ),
    "loss": "Loss on held-out data, and the clients' mean training loss.",
    "clients": (
        "Accuracy on the clients' own data: the mean, its spread, "
        "and the worst tenth of the clients."
    ),
    "accuracy_time": "The same accuracy over the simulated time of the devices.",
    "accuracy_joules": (
        "The same accuracy over the energy that the run adds to the devices, above idle."
    ),
    "devices": "Simulated devices: what a client's round goes to, by profile.",
    "time_per_phase": (
        "Where the seconds of a round went, and each phase's share of the whole run."
    ),
    "profile": (
        "The same phases with what none of them accounts for, "
        "and local training beside the machine's peak."
    ),
    "label_mix": (
        "Who has what: samples per client, and the share of each label among them."
    ),
}

# How a value of the config's [expect] reads: six digits are enough to compare.
EXPECTED_DIGITS = 6


def write_page(
    folder: Path, out: Path | None = None, plots: Path | None = None
) -> Path:
    """Write the page of a run folder and return its path.

    out: ``report.html`` in the run folder when None. plots: where `fedlearn.reporting.plots.draw`
    put the pictures, ``plots`` in the run folder when None; a picture that is not there is left
    out. Raises UserError when it is not a run folder, RecordError when a file cannot be read or the
    page cannot be written.
    """
    run = read(folder)
    figures = results(run)
    parts = [
        header(run, figures),
        *(element("p", problem, class_="warning") for problem in run.problems),
        tiles(run, figures),
        baseline(run),
        expectations(run),
        pictures(plots or folder / PLOTS_FOLDER),
        bytes_table(run, figures),
        codec_table(run),
        devices(run),
        agents(run),
        failures(run),
        rounds_table(run),
        settings(run),
        reproduce(run, figures),
    ]
    foot = (
        "Written by fedlearn. Bytes are payloads as encoded; 1 MB is 1,000,000 bytes."
    )
    return write_document(
        out or folder / PAGE_FILE,
        f"{run.name} – fedlearn",
        *parts,
        element("footer", foot),
    )


def header(run: RunRecord, figures: Results) -> Html:
    """Return the name, whether the run is finished, and one line of what it was."""
    texts = [
        Html(f"{key} {element('b', value)}")
        for key, value in _facts(run, figures)
        if value not in (None, "")
    ]
    return element(
        "header",
        element("p", "fedlearn run", class_="kind"),
        element("h1", run.name, " ", _state_chip(run, figures)),
        element("p", Html(" &ensp;·&ensp; ".join(texts)), class_="lead"),
    )


def _state_chip(run: RunRecord, figures: Results) -> Html:
    if run.finished:
        return element("span", "finished", class_="chip good")
    text = f"unfinished: round {figures.rounds}"
    if run.planned_rounds:
        text += f" of {run.planned_rounds}"
    return element("span", text, class_="chip wait")


def _facts(run: RunRecord, figures: Results) -> list[tuple[str, object]]:
    """Return what the run was, as (key, value); a value that is not recorded is None or ""."""
    data = section(run.manifest, "data")
    model = section(run.manifest, "model")
    started = str(run.manifest.get("started") or "")
    return [
        ("data", _named(data.get("name"), finite(data, "clients"), "clients")),
        (
            "model",
            _named(model.get("name"), finite(model, "parameters"), "parameters"),
        ),
        ("strategy", section(run.config, "strategy").get("name")),
        ("codec", _codec(run)),
        ("engine", figures.engine),
        ("seed", run.manifest.get("seed")),
        # An ISO time to the second, without its zone.
        ("started", started[:19].replace("T", " ")),
    ]


def _named(name: object, count: float | None, unit: str) -> str:
    """Return a name and how many of something it has, as far as either is recorded."""
    parts: list[str] = []
    if name:
        parts.append(str(name))
    if count is not None:
        parts.append(f"{count_text(count)} {unit}")
    return ", ".join(parts)


def _codec(run: RunRecord) -> str:
    # The manifest says what "auto" chose.
    codec = section(run.manifest, "codec") or section(run.config, "codec")
    texts: list[str] = []
    for direction in ("up", "down"):
        if codec.get(direction):
            texts.append(f"{direction} {codec[direction]}")
    return ", ".join(texts)


def tiles(run: RunRecord, figures: Results) -> Html:
    """Return the key figures."""
    best = ""
    if figures.best_round is not None:
        best = f"in round {figures.best_round}"
    comparison = against_raw(figures.bytes_raw, figures.bytes_total)
    # Twelve digits tell runs apart; the whole hash shows on hovering.
    digest = element(
        "code", figures.model_sha256[:12] or MISSING, title=figures.model_sha256
    )
    return element(
        "dl",
        tile(
            "final accuracy",
            percent_text(figures.accuracy),
            f"loss {number_text(figures.loss)}",
        ),
        tile("best accuracy", percent_text(figures.best_accuracy), best),
        tile("bytes exchanged", bytes_text(figures.bytes_total), comparison),
        tile("time", time_text(figures.seconds), _training_share(figures)),
        tile("rounds", count_text(figures.rounds), _updates(run, figures)),
        tile(
            "model",
            count_text(_parameters(run)),
            Html(f"parameters, sha256 {digest}"),
        ),
        class_="tiles",
    )


def baseline(run: RunRecord) -> Html:
    """Return the warning that a constant answer is as good; nothing where it is not."""
    warning = baseline_warning(run)
    return element("p", warning, class_="warning") if warning else Html("")


def _training_share(figures: Results) -> str:
    if not figures.seconds:
        return f"training {MISSING}"
    share = figures.seconds_training / figures.seconds
    return f"training {percent_text(share)}"


def _updates(run: RunRecord, figures: Results) -> str:
    cohorts = sum(int(amount(line, "clients")) for line in run.trained)
    # Never below 0, even where a damaged line lacks its cohort.
    updates = max(cohorts - figures.failed, 0)
    failed = count_text(figures.failed)
    return f"{count_text(updates)} client updates, {failed} failed"


def _parameters(run: RunRecord) -> float | None:
    recorded = finite(run.summary, "parameters")
    if recorded is not None:
        return recorded
    # An unfinished run has no summary, but its manifest is written at the start.
    return finite(section(run.manifest, "model"), "parameters")


def expectations(run: RunRecord) -> Html:
    """Return what the config expected of the run and whether it came true.

    Nothing when it expected nothing.
    """
    entries = expectations_of(run.summary)
    if not entries:
        return Html("")
    rows = [
        [
            entry.get("what", ""),
            _expected_value(entry.get("wanted")),
            _expected_value(entry.get("got")),
            _verdict(entry.get("met")),
        ]
        for entry in entries
    ]
    verdicts = table(["what", "wanted", "got", ""], rows)
    note = "What the config's [expect] asks for."
    return section_of("Expectations", verdicts, note=note)


def _expected_value(value: object) -> str:
    if value is None:
        return MISSING
    if isinstance(value, float):
        return f"{value:.{EXPECTED_DIGITS}g}"
    return str(value)


def _verdict(met: object) -> Html:
    if met:
        return element("span", "met", class_="chip good")
    return element("span", "not met", class_="chip bad")


def pictures(plots: Path) -> Html:
    """Return the plots that are there, as part of the page."""
    figures: list[Html] = []
    for name, caption in CAPTIONS.items():
        # A picture that had nothing to show was not drawn.
        path = plots / f"{name}.png"
        if path.is_file():
            figures.append(picture(path, caption))
    if not figures:
        return Html("")
    return section_of("Plots", element("div", *figures, class_="plots"))


def settings(run: RunRecord) -> Html:
    """Return the resolved config and the manifest.

    Label counts are left out: the picture shows them.
    """
    config_title = f"{CONFIG_FILE}, every key as it was used"
    texts = [folded(config_title, element("pre", run.config_text), unfolded=True)]
    manifest: dict[str, Any] = dict(run.manifest)
    # Thousands of numbers, which nobody reads.
    data = dict(section(run.manifest, "data"))
    data.pop("label_counts", None)
    if data:
        manifest["data"] = data
    if manifest:
        text = json.dumps(manifest, indent=2, ensure_ascii=False)
        manifest_title = f"{MANIFEST_FILE}: versions, platform, data"
        texts.append(folded(manifest_title, element("pre", text)))
    return section_of("Settings", *texts)


def reproduce(run: RunRecord, figures: Results) -> Html:
    """Return the commands that run the same again and compare, to be typed in the run folder."""
    # Resolved, since the folder may be given as "." or "..".
    again = shlex.quote(f"../{run.folder.resolve().name}-again")
    commands = [
        shlex.join(["pip", "install", *_requirements(run)]),
        f"python -m fedlearn.simulate {CONFIG_FILE} --out {again}",
        f"fedlearn report . {again}",
    ]
    digest = Html("")
    if figures.model_sha256:
        code = element("code", figures.model_sha256)
        digest = Html(f"The model hash to compare: {code}.")
    note = "In this run's folder. "
    version = section(run.manifest, "versions").get("python")
    if version:
        note += f"Python {version}. "
    note += "The same versions on the same platform give the same model, bit for bit."
    return section_of(
        "Run it again",
        element("pre", "\n".join(commands)),
        element("p", digest, class_="note"),
        note=note,
    )


def _requirements(run: RunRecord) -> list[str]:
    """Return what pip is to install: fedlearn and what decides the bits, as far as recorded."""
    versions = section(run.manifest, "versions")
    requirements = ["fedlearn[sim]"]
    if versions.get("fedlearn"):
        requirements = [f"fedlearn[sim]=={versions['fedlearn']}"]
    for package in ("torch", "numpy", "flwr"):
        if versions.get(package):
            requirements.append(f"{package}=={versions[package]}")
    return requirements
