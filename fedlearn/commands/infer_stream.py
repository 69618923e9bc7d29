"""The streams of ``fedlearn infer``: its options, and the parts that they name."""

from __future__ import annotations

import argparse
import contextlib
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from fedlearn.commands.broker_arguments import add_broker, broker_of
from fedlearn.errors import RecordError, RunError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fedlearn.clients.infer.arrivals import ArrivalSource
    from fedlearn.clients.infer.outlets import Outlet
    from fedlearn.clients.infer.stream import StreamSettings, WatchedModel
    from fedlearn.clients.infer.stream_state import StreamState
    from fedlearn.clients.infer.tally import Tally

SOURCES = {
    "camera": "camera:NUMBER",
    "folder": "folder:DIR",
    "csv": "csv:FILE",
    "mqtt": "mqtt:TOPIC",
}
FILES = {"file": "file:OUT", "csv": "csv:OUT"}
SINKS = {**FILES, "mqtt": "mqtt:TOPIC"}

# What has no end by itself.
ENDLESS = ("camera", "mqtt")

# What --until waits for, in words.
_ENDS = {"collected": "collected", "puback": "taken by the broker"}

# Seconds in which answers may still go out when a stream ends.
GRACE_S = 5.0


def add_stream(parser: argparse.ArgumentParser) -> None:
    """Add the options of streams."""
    group = parser.add_argument_group("a stream, which goes on")
    group.add_argument(
        "--follow", action="store_true", help="wait for more files, or more rows"
    )
    group.add_argument(
        "--every",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds between two frames of a camera (default: as fast as they come)",
    )
    group.add_argument(
        "--pre",
        default="",
        metavar="STEPS",
        help="before the model, of pictures: resize:HxW, crop:HxW, gray, "
        "normalise:MEAN/DEVIATION, with commas between",
    )
    group.add_argument(
        "--post",
        default="",
        metavar="STEPS",
        help="after it: softmax, average:N, threshold:SCORE, top:N, count:SECONDS",
    )
    group.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="what is answered, and what waits to go out (default: infer-state)",
    )
    _add_outbox(parser)
    add_broker(parser)


def _add_outbox(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("answers on their way to a broker")
    group.add_argument(
        "--until",
        choices=("collected", "puback"),
        default="collected",
        help="keep an answer until `fedlearn collect` has it on its disk, or until the "
        "broker has taken it, which may lose it (default: %(default)s)",
    )
    group.add_argument(
        "--outbox-mb",
        type=float,
        default=64.0,
        metavar="MB",
        help="of answers that wait; beyond it the oldest are dropped (default: "
        "%(default)s)",
    )
    group.add_argument(
        "--wait",
        type=float,
        default=GRACE_S,
        metavar="S",
        help="at the end, for answers that are going out (default: %(default)s)",
    )


def is_stream(arguments: argparse.Namespace) -> bool:
    """Tell whether arguments ask for a stream, and not for a batch or a server."""
    kinds = (_kind(arguments.source), _kind(arguments.to))
    return bool(arguments.source) and (arguments.follow or bool({*kinds} & {*ENDLESS}))


def check_stream(arguments: argparse.Namespace) -> None:
    """Refuse arguments that make no sense together, before anything is loaded."""
    place(arguments.source, SOURCES, "--source")
    place(arguments.to, SINKS, "--to")
    streams = is_stream(arguments)
    if (arguments.pre or arguments.post or arguments.every) and not streams:
        raise UserError(
            "--pre, --post and --every go with a stream: add --follow, or --to mqtt:TOPIC"
        )
    if arguments.every and _kind(arguments.source) != "camera":
        raise UserError("--every goes with --source camera:NUMBER")
    if streams and _kind(arguments.to) == "csv":
        raise UserError("--to csv: is for a batch; a stream goes to file: or mqtt:")
    for option in ("every", "outbox_mb", "wait"):
        number = getattr(arguments, option)
        if not 0 <= number <= 1e6:
            name = option.replace("_", "-")
            raise UserError(f"--{name} {number}: a number from 0 to 1000000")


def place(text: str | None, kinds: dict[str, str], option: str) -> tuple[str, str]:
    """Return the kind and the name of "KIND:NAME"; raises UserError for another kind."""
    kind, _, name = (text or "").partition(":")
    if kind not in kinds or not name:
        *first, last = kinds.values()
        raise UserError(f"{option} {text}: give {', '.join(first)} or {last}")
    return kind, name


def run_stream(arguments: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Run a stream until its source is over, or SIGTERM; raises FedlearnError."""
    _check_topics(arguments)
    settings, count_s = _settings(arguments)
    from fedlearn.clients.infer import stream, stream_state

    stopping = threading.Event()
    watched = stream.WatchedModel(arguments.model, arguments.int8, say)
    folder = arguments.state or stream_state.default_folder()
    with contextlib.ExitStack() as parts, _on_disk(folder):
        state = stream_state.StreamState(folder)
        parts.callback(state.close)
        source = _source(arguments, state, stopping, say)
        parts.callback(source.close)
        tally = _tally(state, count_s)
        outlet = _outlet(arguments, state, say)
        state.note(_facts(arguments))
        streaming = stream.Stream(
            watched, source, outlet, settings, say, stopping, tally
        )
        _on_signals(stopping, watched)
        say(f"version {watched.model.version} answers {arguments.source}")
        try:
            streaming.run()
        finally:
            waiting = outlet.close(arguments.wait)
    say(streaming.described())
    if waiting and not stopping.is_set():
        raise RunError(
            f"{waiting} answers are not {_ENDS[arguments.until]} yet; they wait in "
            f"'{folder}' and go out with the next run"
        )


@contextlib.contextmanager
def _on_disk(folder: Path) -> Iterator[None]:
    """Raise RecordError that names the place for what the system refuses."""
    try:
        yield
    except OSError as error:
        raise RecordError(
            f"'{error.filename or folder}': {error.strerror or error}"
        ) from None


def _kind(text: str | None) -> str:
    return (text or "").partition(":")[0]


def _settings(arguments: argparse.Namespace) -> tuple[StreamSettings, float]:
    """Return what lies between samples and answers, and the seconds of a count."""
    from fedlearn.clients.infer import answer_steps, picture_steps
    from fedlearn.clients.infer.stream import StreamSettings

    before = picture_steps.parsed(arguments.pre) if arguments.pre else []
    after: list[answer_steps.AnswerStep] = []
    count_s = 0.0
    if arguments.post:
        after, count_s = answer_steps.parsed(arguments.post)
    fits = _kind(arguments.source) == "camera"
    return StreamSettings(arguments.batch, before, after, fits), count_s


def _check_topics(arguments: argparse.Namespace) -> None:
    """Refuse topics and a broker that cannot be; raises UserError."""
    from fedlearn.clients.messages.topics import check_filter, check_topic

    kind, name = place(arguments.source, SOURCES, "--source")
    if kind == "mqtt":
        check_filter(name, "--source")
    sink, name = place(arguments.to, SINKS, "--to")
    if sink == "mqtt":
        check_topic(name, "--to")
    if "mqtt" in (kind, sink):
        # Refuses an address or a password's file before a model is loaded.
        broker_of(arguments)


def _facts(arguments: argparse.Namespace) -> dict[str, object]:
    """Return what is noted of where answers go, for doctor and for the next run."""
    facts: dict[str, object] = {"to": arguments.to}
    if _kind(arguments.to) == "mqtt":
        facts["until"] = arguments.until
        facts["outbox_bytes"] = round(arguments.outbox_mb * 1e6)
        facts["broker"] = broker_of(arguments).name
    return facts


def _tally(state: StreamState, count_s: float) -> Tally | None:
    from fedlearn.clients.infer import stream_state, tally

    if not count_s:
        return None
    return tally.Tally(state.folder / stream_state.COUNTS, count_s)


def _source(
    arguments: argparse.Namespace,
    state: StreamState,
    stopping: threading.Event,
    say: Callable[[str], None],
) -> ArrivalSource:
    kind, name = place(arguments.source, SOURCES, "--source")
    if kind == "mqtt":
        from fedlearn.clients.infer.subscription import Subscription

        return Subscription(broker_of(arguments), name, state.name, say)
    if kind == "folder":
        from fedlearn.clients.infer.followed_folder import FollowedFolder

        return FollowedFolder(Path(name), state.folder, arguments.follow, stopping)
    if kind == "csv":
        from fedlearn.clients.infer.followed_rows import FollowedRows

        return FollowedRows(Path(name), state.folder, arguments.follow, stopping)
    from fedlearn.clients.infer.camera import Camera, Film

    if name.isdecimal() and len(name) < 4:
        return Camera(int(name), arguments.every, stopping, say)
    return Film(Path(name), arguments.every)


def _outlet(
    arguments: argparse.Namespace, state: StreamState, say: Callable[[str], None]
) -> Outlet:
    from fedlearn.clients.infer import outlets, stream_state

    kind, name = place(arguments.to, SINKS, "--to")
    if kind == "file":
        return outlets.FileOutlet(Path(name))
    from fedlearn.clients.messages.outbox import Outbox
    from fedlearn.clients.messages.publisher import Publisher, Until

    outbox = Outbox(
        state.folder / stream_state.OUTBOX, round(arguments.outbox_mb * 1e6)
    )
    earlier = state.earlier.get("to")
    # A message's topic is the stream's: what waits was meant for the one before.
    if outbox.count and earlier != arguments.to:
        count = outbox.count
        outbox.close()
        raise UserError(
            f"{count} answers for {earlier} wait in '{state.folder}'; send them with --to "
            f"{earlier} first, or give another --state"
        )
    until = Until(arguments.until)
    publisher = Publisher(outbox, broker_of(arguments), name, until, say)
    return outlets.TopicOutlet(outbox, publisher)


def _on_signals(stopping: threading.Event, watched: WatchedModel) -> None:
    """SIGTERM and SIGINT end the stream in order; SIGHUP has it load its model again."""

    def again(*_: object) -> None:
        watched.is_asked_again = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    signal.signal(signal.SIGHUP, again)
