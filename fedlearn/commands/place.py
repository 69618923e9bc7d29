"""The command ``fedlearn place``: where requests are best computed, from measurements."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import UserError

if TYPE_CHECKING:
    from fedlearn.clients.placement.replay import Replayed
    from fedlearn.clients.placement.traces import Trace

EPILOG = (
    "`fedlearn infer --upstream URL` chooses by itself while it serves; this is for what "
    "comes before. exit codes: 0 done, 2 wrong input"
)


def parser() -> Parser:
    """Return the command's arguments."""
    parser = Parser(
        prog="fedlearn place",
        description="Say where requests are best computed: on the device, at the centre, "
        "or on both.",
        epilog=EPILOG,
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="{route,split,replay}"
    )
    _add_route(
        commands.add_parser(
            "route", help="fit which answers of a small model go to a larger one"
        )
    )
    _add_split(
        commands.add_parser("split", help="measure where a model is best cut in two")
    )
    _add_replay(
        commands.add_parser(
            "replay", help="replay a trace beside the best choice in hindsight"
        )
    )
    return parser


def _add_route(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("small", metavar="SMALL", help="the run of the device's model")
    parser.add_argument("large", metavar="LARGE", help="the run of the centre's model")
    parser.add_argument(
        "--budget",
        type=float,
        default=0.3,
        metavar="SHARE",
        help="of all samples that may be sent, 0 to 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("routing.json"),
        metavar="FILE",
        help="for `fedlearn infer --routing` (default: %(default)s)",
    )


def _add_split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a finished run's folder")
    parser.add_argument(
        "--slower",
        type=float,
        default=10.0,
        metavar="TIMES",
        help="the device is than this machine (default: %(default)s)",
    )
    parser.add_argument(
        "--turn-ms",
        type=float,
        default=5.0,
        metavar="MS",
        help="the link's round trip (default: %(default)s)",
    )
    parser.add_argument(
        "--mbps",
        type=float,
        default=10.0,
        metavar="N",
        help="the link's rate, 10⁶ bits a second (default: %(default)s)",
    )


def _add_replay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "trace",
        metavar="TRACE",
        help="link-dies, load-doubles, device-heats, radio-fades, or a CSV file",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of a trace that is drawn (%(default)s)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture, PNG")
    parser.add_argument("--write", type=Path, metavar="FILE", help="the trace as CSV")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    if arguments.command == "route":
        _route(arguments)
    elif arguments.command == "split":
        _split(arguments)
    else:
        _replay(arguments)


def _route(arguments: argparse.Namespace) -> None:
    share = arguments.budget
    if not 0 < share <= 1:
        raise UserError(f"--budget {share:g}: a share from above 0 to 1, such as 0.3")
    # Only now: torch takes seconds to import.
    from fedlearn.clients.placement import routing
    from fedlearn.compress.routes import fit_route
    from fedlearn.runs.trained import load

    report = fit_route(load(arguments.small), load(arguments.large), share)
    _written(arguments.out, lambda: routing.write(arguments.out, report.routing))
    score = report.score
    print(f"small alone   {100 * score.small:.1f} %")
    print(f"large alone   {100 * score.large:.1f} %")
    print(f"routed        {100 * score.routed:.1f} %")
    print(f"sent          {report.sent_samples} of {report.samples} samples")
    print(f"threshold     {report.routing.threshold:.4g}, in {arguments.out}")


def _split(arguments: argparse.Namespace) -> None:
    for option in ("slower", "turn_ms", "mbps"):
        value = getattr(arguments, option)
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"--{option.replace('_', '-')} {value:g}: a number above 0")
    from fedlearn.clients.placement.splitting import best_cut
    from fedlearn.compress.splits import measured_cuts
    from fedlearn.runs.trained import load

    turn_s = arguments.turn_ms / 1000
    byte_s = 8e-6 / arguments.mbps
    points = measured_cuts(load(arguments.run), arguments.slower)
    best = best_cut(points, turn_s, byte_s)
    print(
        f"{'cut after':<16}{'head ms':>10}{'tail ms':>10}{'bytes':>10}{'total ms':>10}"
    )
    for point in points:
        mark = " best" if point is best else ""
        total_s = point.total_s(turn_s, byte_s)
        print(
            f"{point.name:<16}{1e3 * point.head_s:>10.3f}{1e3 * point.tail_s:>10.3f}"
            f"{point.crossing_bytes:>10,}{1e3 * total_s:>10.3f}{mark}"
        )


def _replay(arguments: argparse.Namespace) -> None:
    from fedlearn.clients.placement import hindsight, replay, traces

    trace = traces.load(arguments.trace, arguments.seed)
    best_s = hindsight.hindsight_s(trace)
    outcomes = {
        name: replay.replay(trace, chooser)
        for name, chooser in replay.choosers().items()
    }
    print(f"{'':<16}{'mean ms':>10}{'of best':>10}{'centre':>10}{'probes':>10}")
    planned_s = hindsight.planned_s(trace)
    for name, total_s in (("every chance", best_s), ("best places", planned_s)):
        mean_ms = 1e3 * total_s / len(trace)
        print(f"{name:<16}{mean_ms:>10.3f}{total_s / planned_s:>10.3f}")
    for name, outcome in outcomes.items():
        print(
            f"{name:<16}{1e3 * outcome.latency_s.mean():>10.3f}"
            f"{outcome.total_s / planned_s:>10.3f}{100 * outcome.cloud.mean():>8.0f} %"
            f"{outcome.probes:>10}"
        )
    if arguments.write is not None:
        _written(arguments.write, lambda: traces.write(arguments.write, trace))
    if arguments.plot is not None:
        _draw(arguments, trace, outcomes)


def _draw(
    arguments: argparse.Namespace, trace: Trace, outcomes: dict[str, Replayed]
) -> None:
    from fedlearn.reporting import placement

    placement.draw(
        arguments.plot,
        f"Where requests are computed: {arguments.trace}",
        trace.at_s,
        {name: outcome.latency_s for name, outcome in outcomes.items()},
        outcomes["placed"].cloud,
    )


def _written(path: Path, write: Callable[[], None]) -> None:
    """Write a file; raises UserError for a place that takes none."""
    try:
        write()
    except OSError as error:
        raise UserError(f"'{path}' cannot be written: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
