"""The page of one run: ``report.html``, one file that needs nothing else and asks nothing of any network."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlearn.records.line import Line
from fedlearn.records.names import PAGE_FILE, PLOTS_FOLDER
from fedlearn.records.reading import RunRecord, finite, number, read, section
from fedlearn.reporting.agents import agents
from fedlearn.reporting.devices import devices
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
from fedlearn.reporting.results import Results, results
from fedlearn.reporting.units import (
    against_raw,
    bytes_text,
    count_text,
    number_text,
    percent_text,
    ratio_text,
    time_text,
)
from fedlearn.text import first_few

CAPTIONS = {
    "accuracy_rounds": "Accuracy on held-out data after each evaluated round; the star marks the best.",
    "accuracy_bytes": "The same accuracy over the bytes of both directions, as encoded and as plain float32.",
    "loss": "Loss on held-out data, and the clients' mean training loss.",
    "clients": "Accuracy on the clients' own data: the mean, its spread, and the worst tenth of the clients.",
    "accuracy_time": "The same accuracy over the simulated time of the devices.",
    "accuracy_joules": "The same accuracy over the energy that the run adds to the devices, above idle.",
    "devices": "Simulated devices: what a client's round goes to, by profile.",
    "time_per_phase": "Where the seconds of a round went, and each phase's share of the whole run.",
    "profile": "The same phases with what none of them accounts for, and local training beside the machine's peak.",
    "label_mix": "Who has what: samples per client, and the share of each label among them.",
}
MOST_ROWS = 2000
MOST_FAILED_ROUNDS = 200


def write_page(
    folder: Path, out: Path | None = None, plots: Path | None = None
) -> Path:
    """Write the page of a run folder and return its path.

    out: ``report.html`` in the run folder when None. plots: where `fedlearn.reporting.plots.draw` put the pictures,
    ``plots`` in the run folder when None; a picture that is not there is left out.
    Raises UserError when it is not a run folder, RecordError when the page cannot be written.
    """
    run = read(folder)
    found = results(run)
    parts = [
        header(run, found),
        *(element("p", problem, class_="warning") for problem in run.problems),
        tiles(run, found),
        expectations(run),
        pictures(plots or folder / PLOTS_FOLDER),
        bytes_table(run, found),
        codec_table(run),
        devices(run),
        agents(run),
        failures(run),
        rounds_table(run),
        settings(run),
        reproduce(run, found),
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


def header(run: RunRecord, found: Results) -> Html:
    """Return the name, whether the run is finished, and one line of what it was."""
    planned = f" of {run.planned_rounds}" if run.planned_rounds else ""
    state = (
        ("finished", "good")
        if run.finished
        else (f"unfinished: round {found.rounds}{planned}", "wait")
    )
    chip = element("span", state[0], class_=f"chip {state[1]}")
    data, model = section(run.manifest, "data"), section(run.manifest, "model")
    parameters = finite(model, "parameters")
    facts = [
        ("data", _named(data.get("name"), finite(data, "clients"), "clients")),
        ("model", _named(model.get("name"), parameters, "parameters")),
        ("strategy", section(run.config, "strategy").get("name")),
        ("codec", _codec(run)),
        ("engine", found.engine),
        ("seed", run.manifest.get("seed")),
        ("started", str(run.manifest.get("started") or "")[:19].replace("T", " ")),
    ]
    texts = [
        Html(f"{key} {element('b', value)}")
        for key, value in facts
        if value not in (None, "")
    ]
    lead = element("p", Html(" &ensp;·&ensp; ".join(texts)), class_="lead")
    return element(
        "header",
        element("p", "fedlearn run", class_="kind"),
        element("h1", run.name, " ", chip),
        lead,
    )


def _named(name: object, count: float | None, unit: str) -> str:
    return ", ".join(
        [str(name)] * bool(name) + [f"{count_text(count)} {unit}"] * (count is not None)
    )


def _codec(run: RunRecord) -> str:
    codec = section(run.manifest, "codec") or section(run.config, "codec")
    return ", ".join(f"{way} {codec[way]}" for way in ("up", "down") if codec.get(way))


def tiles(run: RunRecord, found: Results) -> Html:
    """Return the key figures."""
    best = f"in round {found.best_round}" if found.best_round is not None else ""
    share = (
        percent_text(found.seconds_training / found.seconds) if found.seconds else "-"
    )
    asked = sum(int(finite(line, "clients") or 0) for line in run.trained)
    updates = f"{count_text(max(asked - found.failed, 0))} client updates, {count_text(found.failed)} failed"
    digest = element("code", found.model_sha256[:12] or "-", title=found.model_sha256)
    return element(
        "dl",
        tile(
            "final accuracy",
            percent_text(found.accuracy),
            f"loss {number_text(found.loss)}",
        ),
        tile("best accuracy", percent_text(found.best_accuracy), best),
        tile(
            "bytes exchanged",
            bytes_text(found.bytes_total),
            against_raw(found.bytes_raw, found.bytes_total),
        ),
        tile("time", time_text(found.seconds), f"training {share}"),
        tile("rounds", count_text(found.rounds), updates),
        tile(
            "model",
            f"{count_text(_parameters(run))}",
            Html(f"parameters, sha256 {digest}"),
        ),
        class_="tiles",
    )


def _parameters(run: RunRecord) -> float | None:
    recorded = finite(run.summary, "parameters")
    return (
        finite(section(run.manifest, "model"), "parameters")
        if recorded is None
        else recorded
    )


def expectations(run: RunRecord) -> Html:
    """Return what the config expected of the run and whether it came true; nothing when it expected nothing."""
    found = run.summary.get("expectations")
    rows = (
        [item for item in found if isinstance(item, Mapping)]
        if isinstance(found, list)
        else []
    )
    if not rows:
        return Html("")
    lines = [
        [
            i.get("what", ""),
            _value(i.get("wanted")),
            _value(i.get("got")),
            _verdict(i.get("met")),
        ]
        for i in rows
    ]
    made = table(["what", "wanted", "got", ""], lines)
    return section_of("Expectations", made, note="What the config's [expect] asks for.")


def _value(value: object) -> str:
    return (
        f"{value:.6g}"
        if isinstance(value, float)
        else "-"
        if value is None
        else str(value)
    )


def _verdict(met: object) -> Html:
    return element(
        "span", "met" if met else "not met", class_=f"chip {'good' if met else 'bad'}"
    )


def pictures(plots: Path) -> Html:
    """Return the plots that are there, as part of the page."""
    files = {plots / f"{stem}.png": text for stem, text in CAPTIONS.items()}
    shown = [picture(path, text) for path, text in files.items() if path.is_file()]
    return (
        section_of("Plots", element("div", *shown, class_="plots"))
        if shown
        else Html("")
    )


def bytes_table(run: RunRecord, found: Results) -> Html:
    """Return the bytes up, down, together and as float32, in all and per round."""
    rounds = max(len(run.trained), 1)
    ratio = ratio_text(found.bytes_raw, found.bytes_total)
    parts = [
        ("up, clients to server", found.bytes_up, ""),
        ("down, server to clients", found.bytes_down, ""),
        ("both", found.bytes_total, "1×" if found.bytes_total else "-"),
        ("the same exchange as float32", found.bytes_raw, ratio),
    ]
    rows = [
        [name, bytes_text(total), count_text(total), bytes_text(total / rounds), times]
        for name, total, times in parts
    ]
    note = "Payload bytes as encoded, counted where they are made; the transport's own headers come on top."
    return section_of(
        "Bytes",
        table(["", "all rounds", "exactly", "mean per round", "ratio"], rows),
        note=note,
    )


def codec_table(run: RunRecord) -> Html:
    """Return what one message took each way: bytes, bits per parameter, ratio, and the time to encode and decode it."""
    codec, parameters = (
        section(run.manifest, "codec"),
        finite(section(run.manifest, "model"), "floats"),
    )
    rows = []
    for way, times in (("up", ("up_encode", "up_decode")), ("down", ("down",))):
        count = sum(finite(line, f"messages_{way}") or 0 for line in run.trained)
        if not count or not parameters:
            continue
        each = sum(finite(line, f"bytes_{way}") or 0 for line in run.trained) / count
        spent = [
            sum(finite(section(line, "seconds_codec"), t) or 0 for line in run.trained)
            / count
            for t in times
        ]
        texts = (
            [f"{1000 * s:.2f}" for s in spent]
            if len(spent) > 1
            else [f"{1000 * spent[0]:.2f}", "with it"]
        )
        row = [
            way,
            str(codec.get(way, "-")),
            count_text(count),
            bytes_text(each),
            f"{8 * each / parameters:.3f}",
        ]
        rows.append([*row, ratio_text(4 * parameters, each), *texts])
    if not rows:
        return Html("")
    heading = [
        "",
        "codec",
        "messages",
        "bytes each",
        "bits a value",
        "ratio",
        "encode ms",
        "decode ms",
    ]
    note = (
        "Means over all messages, headers included; milliseconds of wall time, one thread. Down, the encoder works out the very "
        "model that the client will decode: its time is that of both ends."
    )
    return section_of("Codecs", table(heading, rows, text_columns=(0, 1)), note=note)


def failures(run: RunRecord) -> Html:
    """Return the failed clients per round, grouped by reason, with the attempts where a round was repeated."""
    hit = [
        line
        for line in run.lines
        if finite(line, "failed") or (finite(line, "attempts") or 1) > 1
    ]
    if not hit:
        return section_of(
            "Failures",
            element("p", "No client failed, and no round was repeated.", class_="note"),
        )
    most = MOST_FAILED_ROUNDS
    rows = [
        [line["round"], line.get("failed", 0), line.get("attempts", 1), _reasons(line)]
        for line in hit[:most]
    ]
    more = (
        f" The first {most} are shown; all are in metrics.jsonl."
        if len(hit) > most
        else ""
    )
    count = sum(int(finite(line, "failed") or 0) for line in hit)
    title = f"{count_text(count)} failed in {count_text(len(hit))} of {count_text(len(run.trained))} rounds"
    heading = ["round", "failed", "attempts", "clients and reasons"]
    list_ = folded(
        title, table(heading, rows, text_columns=(3,)), unfolded=len(hit) <= 12
    )
    return section_of(
        "Failures",
        list_,
        note=f"A failed client is left out of its round, and the round goes on.{more}",
    )


def _reasons(line: Line) -> Html:
    clients: dict[str, list[str]] = {}
    for client, reason in section(line, "failures").items():
        clients.setdefault(str(reason), []).append(client)
    texts = [
        element("div", element("b", first_few(ids, 20)), ": ", reason)
        for reason, ids in clients.items()
    ]
    return Html("".join(texts))


def rounds_table(run: RunRecord) -> Html:
    """Return all rounds, closed at first; a run of thousands shows one in so many."""
    step = -(-len(run.lines) // MOST_ROWS)
    shown = (
        run.lines[::step]
        if run.lines[-1] in run.lines[::step]
        else (*run.lines[::step], run.lines[-1])
    )
    heading = [
        "round",
        "accuracy",
        "loss",
        "train loss",
        "clients",
        "failed",
        "up",
        "down",
        "seconds",
        "training",
    ]
    title = f"{'All' if step == 1 else f'One in {step} of'} {count_text(len(run.trained))} rounds"
    return section_of(
        "Rounds",
        folded(
            title, table(heading, [_round(line) for line in shown], text_columns=())
        ),
    )


def _round(line: Line) -> list[str]:
    return [
        str(line["round"]),
        percent_text(number(line, "accuracy")),
        number_text(number(line, "loss")),
        number_text(number(line, "train_loss")),
        count_text(finite(line, "clients")),
        count_text(finite(line, "failed")),
        bytes_text(finite(line, "bytes_up")),
        bytes_text(finite(line, "bytes_down")),
        number_text(finite(line, "seconds"), 3),
        number_text(finite(line, "seconds_training"), 3),
    ]


def settings(run: RunRecord) -> Html:
    """Return the resolved config and what the manifest records, without the label counts (the picture shows them)."""
    data = {
        key: value
        for key, value in section(run.manifest, "data").items()
        if key != "label_counts"
    }
    manifest: dict[str, Any] = dict(run.manifest) | ({"data": data} if data else {})
    texts = [
        folded(
            "config.toml, every key as it was used",
            element("pre", run.config_text),
            unfolded=True,
        )
    ]
    if manifest:
        text = json.dumps(manifest, indent=2, ensure_ascii=False)
        texts.append(
            folded("manifest.json: versions, platform, data", element("pre", text))
        )
    return section_of("Settings", *texts)


def reproduce(run: RunRecord, found: Results) -> Html:
    """Return the commands that run the same again and compare, to be typed in the run folder."""
    name = run.folder.resolve().name
    again = shlex.quote(f"../{name}-again")
    versions = section(run.manifest, "versions")
    pins = [
        f"{package}=={versions[package]}"
        for package in ("torch", "numpy", "flwr")
        if versions.get(package)
    ]
    own = (
        f"fedlearn[sim]=={versions['fedlearn']}"
        if versions.get("fedlearn")
        else "fedlearn[sim]"
    )
    commands = [
        shlex.join(["pip", "install", own, *pins]),
        f"python -m fedlearn.simulate config.toml --out {again}",
        f"fedlearn report . {again}",
    ]
    digest = (
        Html(f"The model hash to compare: {element('code', found.model_sha256)}.")
        if found.model_sha256
        else ""
    )
    python = f"Python {versions['python']}. " if versions.get("python") else ""
    note = f"In this run's folder. {python}The same versions on the same platform give the same model, bit for bit."
    return section_of(
        "Run it again",
        element("pre", "\n".join(commands)),
        element("p", digest, class_="note"),
        note=note,
    )
