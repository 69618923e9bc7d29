"""The command ``fedlearn learn``: have a fleet learn again when time, samples or drift ask."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlearn.commands.arguments import Parser, ended, interrupt
from fedlearn.commands.authority import require_cryptography
from fedlearn.errors import ConfigError
from fedlearn.text import printable

if TYPE_CHECKING:
    from fedlearn.release.learn_file import LearnFile
    from fedlearn.release.learn_work import LearnPaths

LEAST_PAUSE_S = 0.1

EPILOG = (
    "Killed anywhere, the same command goes on; a trigger is acted upon once. docs/learn.md "
    "has the keys of FILE. exit codes: 0 ended, 2 wrong input, 3 the disk failed, 130 "
    "interrupted"
)


def parser() -> Parser:
    """Return the command's arguments."""
    parser = Parser(
        prog="fedlearn learn",
        description="Watch a fleet, and train from the weights that it serves when time, "
        "samples or drift ask for it. The result is a signed release candidate.",
        epilog=EPILOG,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="such as learn.toml")
    parser.add_argument(
        "--rollout",
        action="store_true",
        help="roll candidates out, wave by wave and behind the gates of any rollout "
        "(default: a person does)",
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="do all that is due now, and end: for cron",
    )
    parser.add_argument(
        "--pause-s",
        type=float,
        default=10.0,
        metavar="S",
        help="between two looks at the fleet (default: 10)",
    )
    parser.add_argument(
        "--status", action="store_true", help="tell how far it is, and do nothing"
    )
    parser.add_argument(
        "--json", action="store_true", help="with --status: print one JSON object"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    # NaN is no pause either.
    if not arguments.pause_s >= LEAST_PAUSE_S:
        raise ConfigError(f"--pause-s {arguments.pause_s:g}: {LEAST_PAUSE_S:g} or more")
    if arguments.json and not arguments.status:
        raise ConfigError("--json goes with --status")
    require_cryptography()
    from fedlearn.release.learn_file import read_learn_file
    from fedlearn.release.learn_work import LearnPaths

    file = read_learn_file(arguments.file)
    paths = LearnPaths.of(arguments.file, file)
    if arguments.status:
        _tell(paths, file, arguments.json)
        return
    signal.signal(signal.SIGTERM, interrupt)
    _learn(arguments, paths, file)


def _learn(arguments: argparse.Namespace, paths: LearnPaths, file: LearnFile) -> None:
    from fedlearn.records.names import LOG_FILE
    from fedlearn.release.learn_work import FleetLearning
    from fedlearn.release.learner import Learner, RecordFile, learn
    from fedlearn.server.observe import Log

    work = FleetLearning(paths, file)
    record = RecordFile(paths.folder)
    log = Log(paths.folder / LOG_FILE)
    triggers = file.learn_triggers()
    gate = file.learn.gate
    learner = Learner(record, work, triggers, gate, arguments.rollout, log.note)
    try:
        if arguments.once:
            while learner.step():
                pass
        else:
            learn(learner, lambda: False, arguments.pause_s)
    finally:
        log.close()
        record.close()


def _tell(paths: LearnPaths, file: LearnFile, is_json: bool) -> None:
    """Print how far learning is, and what would start the next one."""
    from fedlearn.release.learn_work import FleetLearning
    from fedlearn.release.learner import RECORD_FILE, read_record
    from fedlearn.release.learning import begun, trigger

    sight = FleetLearning(paths, file).look()
    record = read_record(paths.folder / RECORD_FILE) or begun(sight)
    cause = trigger(record, file.learn_triggers(), sight)
    value: dict[str, Any] = {
        "number": record.number,
        "step": record.step.name.lower(),
        "why": record.why,
        "tries": record.tries,
        "outcome": record.outcome,
        "base": None if record.base is None else str(record.base),
        "release": None if record.release is None else str(record.release),
        "serving": None if sight.serving is None else str(sight.serving),
        "samples": sight.served - record.served,
        "drifts": list(sight.drifts),
        "rested_s": sight.now_s - record.ended_s,
        "due": None if cause is None else cause.text,
    }
    if is_json:
        print(json.dumps(value))
        return
    print("\n".join(_lines(value)))


def _lines(value: dict[str, Any]) -> list[str]:
    lines = [f"serving   {value['serving'] or 'no release yet'}"]
    if value["number"]:
        words = f"{value['number']}, {value['step']}"
        lines.append(f"learning  {words}, from {value['base']}: {value['why']}")
    if value["outcome"]:
        lines.append(f"outcome   {printable(value['outcome'])}")
    worst = max(value["drifts"], default=0.0)
    hours = value["rested_s"] / 3600
    lines.append(
        f"since     {hours:.1f} h, {value['samples']} requests, drift {worst:.2f} at most"
    )
    if value["step"] == "idle":
        lines.append(f"due       {value['due'] or 'nothing'}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
