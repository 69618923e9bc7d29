"""The tables of a run's page: its bytes, its codecs, its failures and all its rounds."""

from __future__ import annotations

from collections.abc import Sequence

from fedlearn.records.line import Line
from fedlearn.records.names import LINES_FILE
from fedlearn.records.reading import RunRecord, amount, finite, number, section
from fedlearn.reporting.html import Html, element, folded, section_of, table
from fedlearn.reporting.results import Results
from fedlearn.reporting.units import (
    MISSING,
    bytes_text,
    count_text,
    number_text,
    percent_text,
    ratio_text,
)
from fedlearn.text import first_few

# More rows make a page that browsers are slow to show.
MOST_ROUNDS = 2000
MOST_FAILED_ROUNDS = 200

# So many rounds with failures are shown at once; more of them open on a click.
UNFOLDED_ROUNDS = 12

# Clients that are named for each reason of failure; of more, their number is given.
CLIENTS_NAMED = 20

# A parameter's bytes as plain float32.
FLOAT32_BYTES = 4

# The times of ``seconds_codec`` that belong to a direction, encoding first.
CODEC_TIMES = {"up": ("up_encode", "up_decode"), "down": ("down",)}


def bytes_table(run: RunRecord, figures: Results) -> Html:
    """Return the bytes up, down, together and as float32, in all and per round."""
    rounds = max(len(run.trained), 1)
    parts = [
        ("up, clients to server", figures.bytes_up, ""),
        ("down, server to clients", figures.bytes_down, ""),
        ("both", figures.bytes_total, "1×" if figures.bytes_total else MISSING),
        (
            "the same exchange as float32",
            figures.bytes_raw,
            ratio_text(figures.bytes_raw, figures.bytes_total),
        ),
    ]
    rows = [
        [name, bytes_text(total), count_text(total), bytes_text(total / rounds), ratio]
        for name, total, ratio in parts
    ]
    heading = ["", "all rounds", "exactly", "mean per round", "ratio"]
    note = (
        "Payload bytes as encoded, counted where they are made; "
        "the transport's own headers come on top."
    )
    return section_of("Bytes", table(heading, rows), note=note)


def codec_table(run: RunRecord) -> Html:
    """Return what one message took each way.

    That is its bytes, bits per parameter, ratio, and the time to encode and to decode it.
    """
    rows: list[list[str]] = []
    for direction in ("up", "down"):
        row = _codec_row(run, direction)
        if row:
            rows.append(row)
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
        "Means over all messages, headers included; milliseconds of wall time, one thread. "
        "Down, the encoder works out the very model that the client will decode: "
        "its time is that of both ends."
    )
    return section_of("Codecs", table(heading, rows, text_columns=(0, 1)), note=note)


def _codec_row(run: RunRecord, direction: str) -> list[str]:
    """Return the means over a direction's messages; empty where there were none."""
    parameters = finite(section(run.manifest, "model"), "floats")
    messages = sum(amount(line, f"messages_{direction}") for line in run.trained)
    # A run of a version that did not count messages has no such row.
    if not messages or not parameters:
        return []
    direction_bytes = sum(amount(line, f"bytes_{direction}") for line in run.trained)
    message_bytes = direction_bytes / messages
    times: list[str] = []
    tables = [section(line, "seconds_codec") for line in run.trained]
    for key in CODEC_TIMES[direction]:
        seconds = sum(amount(times_table, key) for times_table in tables)
        times.append(f"{1000 * (seconds / messages):.2f}")
    # One time for both ends: the encoder decodes too.
    if len(times) == 1:
        times.append("with it")
    codec = section(run.manifest, "codec").get(direction, MISSING)
    return [
        direction,
        str(codec),
        count_text(messages),
        bytes_text(message_bytes),
        f"{8 * message_bytes / parameters:.3f}",
        ratio_text(FLOAT32_BYTES * parameters, message_bytes),
        *times,
    ]


def failures(run: RunRecord) -> Html:
    """Return the failed clients per round, grouped by reason.

    Rounds that were repeated are listed too, with their attempts.
    """
    lines = [line for line in run.lines if _went_wrong(line)]
    if not lines:
        text = "No client failed, and no round was repeated."
        return section_of("Failures", element("p", text, class_="note"))
    rows = [
        [line["round"], line.get("failed", 0), line.get("attempts", 1), _reasons(line)]
        for line in lines[:MOST_FAILED_ROUNDS]
    ]
    note = "A failed client is left out of its round, and the round goes on."
    if len(lines) > MOST_FAILED_ROUNDS:
        note += f" The first {MOST_FAILED_ROUNDS} are shown; all are in {LINES_FILE}."
    failed = sum(int(amount(line, "failed")) for line in lines)
    title = (
        f"{count_text(failed)} failed "
        f"in {count_text(len(lines))} of {count_text(len(run.trained))} rounds"
    )
    heading = ["round", "failed", "attempts", "clients and reasons"]
    rounds = folded(
        title,
        table(heading, rows, text_columns=(3,)),
        unfolded=len(lines) <= UNFOLDED_ROUNDS,
    )
    return section_of("Failures", rounds, note=note)


def _went_wrong(line: Line) -> bool:
    """Return whether a client failed in a round, or the round was repeated."""
    if amount(line, "failed"):
        return True
    return amount(line, "attempts") > 1


def _reasons(line: Line) -> Html:
    """Return the reasons of a round's failures, each with the clients that it hit."""
    clients: dict[str, list[str]] = {}
    for client, reason in section(line, "failures").items():
        clients.setdefault(str(reason), []).append(client)
    texts: list[Html] = []
    for reason, ids in clients.items():
        # The reason may be a stranger's text; `element` escapes it.
        names = element("b", first_few(ids, CLIENTS_NAMED))
        texts.append(element("div", names, ": ", reason))
    return Html("".join(texts))


def rounds_table(run: RunRecord) -> Html:
    """Return all rounds, closed at first; a run of thousands shows one in so many."""
    step = -(-len(run.lines) // MOST_ROUNDS)
    amount_text = "All" if step == 1 else f"One in {step} of"
    title = f"{amount_text} {count_text(len(run.trained))} rounds"
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
    rows = [_round_row(line) for line in _every(run.lines, step)]
    return section_of("Rounds", folded(title, table(heading, rows, text_columns=())))


def _every(lines: Sequence[Line], step: int) -> list[Line]:
    """Return one line in ``step``, and the last one in any case."""
    shown = list(lines[::step])
    # The end of a run is what a reader looks for.
    if shown[-1] != lines[-1]:
        shown.append(lines[-1])
    return shown


def _round_row(line: Line) -> list[str]:
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
