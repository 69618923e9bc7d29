"""The command ``fedlearn infer``: answer with a model on this device, or compute a batch."""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedlearn.clients.device import notify
from fedlearn.commands import infer_stream
from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import UserError

if TYPE_CHECKING:
    from fedlearn.clients.infer.server import InferSettings

EPILOG = (
    "SIGHUP loads MODEL again and goes over to it without a gap; a .json file that names "
    "the model is looked at by itself. exit codes: 0 done, 2 wrong input, 3 the model or "
    "an address cannot be used"
)

PORT = 8000


def parser() -> Parser:
    """Return the command's arguments."""
    parser = Parser(
        prog="fedlearn infer",
        description="Answer with a model on this device, by the Open Inference Protocol, "
        "or compute a batch.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "model",
        type=Path,
        metavar="MODEL",
        help="a package, an .onnx file, or a .json file that names one of them",
    )
    parser.add_argument(
        "--name", help="the model's name in paths (default: that of the file or folder)"
    )
    parser.add_argument(
        "--int8", action="store_true", help="the package's int8 model, if it has one"
    )
    _add_addresses(parser)
    _add_limits(parser)
    _add_centre(parser)
    _add_batch(parser)
    infer_stream.add_stream(parser)
    return parser


def _add_addresses(parser: Parser) -> None:
    group = parser.add_argument_group("where it listens")
    group.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address (default: %(default)s, this machine only); another one needs "
        "--cert, --key and --ca, or --insecure",
    )
    group.add_argument(
        "--port", type=int, help=f"of HTTP; 0: any free one (default: {PORT})"
    )
    group.add_argument(
        "--unix", type=Path, metavar="PATH", help="a Unix socket in place of a port"
    )
    group.add_argument(
        "--grpc-port", type=int, metavar="PORT", help="of gRPC too; 0: any free one"
    )
    group.add_argument(
        "--cert", type=Path, metavar="FILE", help="this device's certificate, PEM"
    )
    group.add_argument("--key", type=Path, metavar="FILE", help="its key, PEM")
    group.add_argument(
        "--ca",
        type=Path,
        metavar="FILE",
        help="the authority whose clients may ask, PEM",
    )
    group.add_argument(
        "--insecure",
        action="store_true",
        help="without TLS, or with it for clients without a certificate: anybody may ask",
    )


def _add_limits(parser: Parser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--batch",
        type=int,
        default=32,
        metavar="N",
        help="samples that are computed together at most (default: %(default)s)",
    )
    group.add_argument(
        "--queue",
        type=int,
        default=1024,
        metavar="N",
        help="samples that may wait; beyond it the answer is 503 (default: %(default)s)",
    )
    group.add_argument(
        "--deadline-ms",
        type=float,
        default=0.0,
        metavar="MS",
        help="answer 503 at once where it would take longer (default: no limit)",
    )
    group.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="classes of service, JSON: how long each may wait, and how many may come",
    )
    group.add_argument(
        "--body-bytes",
        type=int,
        default=0,
        metavar="N",
        help="of one request (default: what --batch samples take as JSON)",
    )
    group.add_argument(
        "--connections",
        type=int,
        default=256,
        metavar="N",
        help="at a time (default: %(default)s)",
    )


def _add_centre(parser: Parser) -> None:
    group = parser.add_argument_group(
        "a larger model at the centre (docs/placement.md)"
    )
    group.add_argument(
        "--upstream",
        action="append",
        default=[],
        metavar="URL",
        help="http[s]://HOST:PORT[/v2/models/NAME]: the faster place answers; several "
        "share the load",
    )
    group.add_argument(
        "--routing",
        type=Path,
        metavar="FILE",
        help="of `fedlearn place route`: only unsure answers go there",
    )
    group.add_argument(
        "--upstream-ca",
        type=Path,
        metavar="FILE",
        help="whose machines are trusted, PEM",
    )
    group.add_argument(
        "--upstream-cert", type=Path, metavar="FILE", help="our certificate there, PEM"
    )
    group.add_argument("--upstream-key", type=Path, metavar="FILE", help="its key, PEM")


def _add_batch(parser: Parser) -> None:
    group = parser.add_argument_group("a batch, in place of a server")
    group.add_argument(
        "--once",
        type=Path,
        metavar="FILE",
        help="compute the samples of a .npy, .npz, .csv or .png file, or of a folder of "
        "pictures, and print them",
    )
    group.add_argument(
        "--source",
        metavar="KIND:NAME",
        help="folder:DIR or csv:FILE: compute all samples of it, with --to; camera:NUMBER "
        "or mqtt:TOPIC: those that come",
    )
    group.add_argument(
        "--to",
        metavar="KIND:NAME",
        help="file:OUT (a JSON object a line), csv:OUT or mqtt:TOPIC: where the answers "
        "go; what was interrupted goes on",
    )
    group.add_argument("--quiet", action="store_true", help="print no progress")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    _check(arguments)
    # Its threads would each have a buffer, and numpy multiplies nothing here.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    say = _mute if arguments.quiet else notify.say
    if infer_stream.is_stream(arguments):
        infer_stream.run_stream(arguments, say)
        return
    if arguments.once or arguments.source:
        _compute(arguments, say)
        return
    from fedlearn.clients.infer import server

    settings = _settings(arguments)
    asyncio.run(server.serve(settings, notify.say))


def _check(arguments: argparse.Namespace) -> None:
    """Refuse arguments that make no sense together, before anything is loaded."""
    if arguments.once and arguments.source:
        raise UserError("--once and --source: give one of them")
    if arguments.source and not arguments.to:
        raise UserError("--source needs --to: where its answers go")
    if arguments.to and not (arguments.source or arguments.once):
        raise UserError("--to needs --source or --once: what is to be computed")
    if arguments.source:
        infer_stream.check_stream(arguments)
    elif arguments.to:
        infer_stream.place(arguments.to, infer_stream.FILES, "--to")
    for option in ("batch", "queue", "connections"):
        number = getattr(arguments, option)
        if number < 1:
            raise UserError(f"--{option} {number}: a number from 1")
    if arguments.body_bytes < 0 or not 0 <= arguments.deadline_ms < math.inf:
        raise UserError("--body-bytes and --deadline-ms are numbers from 0")
    for option in ("port", "grpc_port"):
        port = getattr(arguments, option)
        if port is not None and not 0 <= port <= 65535:
            raise UserError(f"--{option.replace('_', '-')} {port}: a number to 65535")
    _check_tls(arguments)
    _check_centre(arguments)


def _check_centre(arguments: argparse.Namespace) -> None:
    """Refuse what makes no sense without a model at the centre."""
    if bool(arguments.upstream_cert) != bool(arguments.upstream_key):
        raise UserError("--upstream-cert and --upstream-key go together")
    if arguments.upstream:
        if arguments.once or arguments.source:
            raise UserError("--upstream is for a server; leave it out with a batch")
        return
    for option in ("routing", "upstream_ca", "upstream_cert"):
        if getattr(arguments, option):
            raise UserError(
                f"--{option.replace('_', '-')} needs --upstream: the model at the centre"
            )


def _check_tls(arguments: argparse.Namespace) -> None:
    """Refuse to let anybody in whom nobody meant to."""
    from fedlearn.clients.infer.addresses import is_loopback

    if bool(arguments.cert) != bool(arguments.key):
        raise UserError("--cert and --key go together")
    if arguments.ca and not arguments.cert:
        raise UserError("--ca needs --cert and --key, this device's own certificate")
    if is_loopback(arguments.host) or arguments.insecure:
        return
    if not arguments.cert or not arguments.ca:
        raise UserError(
            f"--host {arguments.host} opens the model to other machines: give --cert, "
            "--key and --ca, so that clients with a certificate of that authority may "
            "ask, or --insecure, so that anybody may"
        )


def _settings(arguments: argparse.Namespace) -> InferSettings:
    from fedlearn.clients.infer.server import InferSettings
    from fedlearn.clients.infer.tls import TlsFiles
    from fedlearn.clients.infer.upstream import UpstreamFiles, address_of

    tls = None
    if arguments.cert:
        tls = TlsFiles(arguments.cert, arguments.key, arguments.ca)
    port = arguments.port
    # A socket is in place of a port, unless both are asked for.
    if port is None and arguments.unix is None:
        port = PORT
    return InferSettings(
        model=arguments.model,
        name=_name(arguments),
        int8=arguments.int8,
        host=arguments.host,
        port=port,
        unix=arguments.unix,
        grpc_port=arguments.grpc_port,
        tls=tls,
        batch=arguments.batch,
        queue=arguments.queue,
        deadline_s=arguments.deadline_ms / 1000 or math.inf,
        body_bytes=arguments.body_bytes,
        connections=arguments.connections,
        upstreams=tuple(address_of(url) for url in arguments.upstream),
        upstream_files=UpstreamFiles(
            arguments.upstream_ca, arguments.upstream_cert, arguments.upstream_key
        ),
        routing=arguments.routing,
        classes=arguments.classes,
    )


def _name(arguments: argparse.Namespace) -> str:
    """Return the model's name; raises UserError for one that no path can have."""
    from fedlearn.clients.infer.addresses import MODEL_NAME

    name: str = arguments.name or arguments.model.resolve().stem
    if not MODEL_NAME.fullmatch(name):
        raise UserError(
            f"--name '{name}': a name of letters, digits, '.', '_' and '-', as it stands "
            "in paths"
        )
    return name


def _compute(arguments: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Compute a batch."""
    from fedlearn.clients.infer import model, once, record

    source = arguments.once
    if arguments.source:
        _, name = infer_stream.place(arguments.source, infer_stream.SOURCES, "--source")
        source = Path(name)
    sink = None
    if arguments.to is not None:
        kind, name = infer_stream.place(arguments.to, infer_stream.SINKS, "--to")
        sink = (kind, Path(name))
    served = model.load(record.target(arguments.model), arguments.int8)
    if sink is None:
        once.print_answers(served, source, arguments.batch, sys.stdout.write)
        return
    once.compute(served, source, sink, arguments.batch, say)


def _mute(text: str) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
