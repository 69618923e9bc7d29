"""The command ``fedlearn collect``: take devices' answers from a broker, each once."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from fedlearn.clients.device import notify
from fedlearn.commands.arguments import Parser, ended
from fedlearn.commands.broker_arguments import add_broker, broker_of
from fedlearn.errors import UserError

EPILOG = (
    "SIGTERM ends it in order. One collector takes a topic: devices forget what it has on "
    "its disk. exit codes: 0 done, 2 wrong input, 3 the file cannot be used"
)


def parser() -> Parser:
    """Return the command's arguments."""
    parser = Parser(
        prog="fedlearn collect",
        description="Take devices' answers from a broker into a file, each once, and tell "
        "the devices what is on the disk.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "--from",
        dest="topic",
        required=True,
        metavar="mqtt:TOPIC",
        help="where `fedlearn infer --to mqtt:…` publishes; '+' and '#' stand for more",
    )
    parser.add_argument(
        "--to",
        required=True,
        type=Path,
        metavar="FILE",
        help="gets a JSON object a line; what is there already goes on",
    )
    parser.add_argument(
        "--insecure", action="store_true", help="reach another machine without TLS"
    )
    parser.add_argument("--quiet", action="store_true", help="print no progress")
    add_broker(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    from fedlearn.clients.messages.topics import check_filter

    kind, _, topic = arguments.topic.partition(":")
    if kind != "mqtt":
        raise UserError(f"--from {arguments.topic}: give mqtt:TOPIC")
    check_filter(topic, "--from")
    if not arguments.to.parent.is_dir():
        raise UserError(f"there is no folder '{arguments.to.parent}'")
    broker = broker_of(arguments)
    from fedlearn.clients.messages.collected import CollectedFile
    from fedlearn.clients.messages.collector import Collector

    say = _mute if arguments.quiet else notify.say
    file = CollectedFile(arguments.to)
    try:
        collector = Collector(file, broker, topic, say)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: collector.stop())
        collector.run()
        say(collector.described())
    finally:
        file.close()


def _mute(text: str) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
