"""The command ``fedlearn registry``: packages over HTTPS, for other devices and for CI."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from fedlearn.commands.arguments import Parser, ended
from fedlearn.commands.places import check_outside
from fedlearn.errors import UserError

EPILOG = (
    "curl -T package.tar -H 'Authorization: Bearer TOKEN' https://HOST:PORT/v1/packages "
    "uploads what 'tar c -C DIR .' has made; docs/package.md lists all paths. exit codes: 0 "
    "done, 2 wrong input, 3 the registry cannot be used"
)


def parser() -> Parser:
    """Return the command's arguments."""
    parser = Parser(
        prog="fedlearn registry",
        description="Serve a registry of packages over HTTPS, and say who may use it.",
        epilog=EPILOG,
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="{serve,token}"
    )
    _add_serve(
        commands.add_parser(
            "serve", help="serve the registry in a folder", epilog=EPILOG
        )
    )
    token = commands.add_parser("token", help="make a token, which is shown once")
    token.add_argument("name", metavar="NAME", help="who gets it; a former one ends")
    token.add_argument(
        "--write",
        action="store_true",
        help="for uploads too, and not for reading alone",
    )
    _add_token_file(token)
    return parser


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--registry",
        type=Path,
        required=True,
        metavar="DIR",
        help="as fedlearn release uses it; made where there is none",
    )
    _add_token_file(parser)
    parser.add_argument(
        "--cert", type=Path, metavar="PEM", help="the server's certificate"
    )
    parser.add_argument("--key", type=Path, metavar="PEM", help="its key")
    parser.add_argument(
        "--accept",
        action="append",
        default=[],
        type=Path,
        metavar="PEM",
        help="a release key (release.pem); uploads have to be signed by one of them",
    )
    parser.add_argument(
        "--host", default="0.0.0.0", help="where to listen (default: everywhere)"
    )
    parser.add_argument(
        "--port", type=int, default=8443, help="0 for any free one (default: 8443)"
    )
    parser.add_argument(
        "--most-mb",
        type=float,
        default=1000.0,
        metavar="MB",
        help="of one package, 10⁶ bytes (default: 1000)",
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="without TLS, for this machine alone (127.0.0.1)",
    )


def _add_token_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--token-file",
        type=Path,
        required=True,
        metavar="FILE",
        help="names, rights and the hashes of their tokens",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    if arguments.command == "token":
        _token(arguments)
    else:
        _serve(arguments)


def _token(arguments: argparse.Namespace) -> None:
    from fedlearn.release.access import READ, WRITE, new_token

    check_outside(arguments.token_file, "--token-file")
    right = WRITE if arguments.write else READ
    token = new_token(arguments.token_file, arguments.name, right)
    # Alone on standard output, for a script to keep.
    print(token)
    print(
        f"fedlearn: {arguments.token_file} lets '{arguments.name}' {right}; the token is not "
        "shown again, and a server that runs reads the file at its next start",
        file=sys.stderr,
    )


def _serve(arguments: argparse.Namespace) -> None:
    from fedlearn.package import keys
    from fedlearn.release import access

    _check(arguments)
    check_outside(arguments.registry, "--registry")
    holders = access.read(arguments.token_file)
    if not holders:
        raise UserError(
            f"'{arguments.token_file}' lets nobody in: fedlearn registry token NAME "
            f"--token-file {arguments.token_file}"
        )
    pems = [keys.read(path) for path in arguments.accept]
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        raise UserError(
            "a registry's server needs FastAPI: pip install 'fedlearn[sim]'"
        )

    from fedlearn.release.service import Settings, service
    from fedlearn.release.serving import Place, serve

    settings = Settings(
        registry=arguments.registry,
        holders=holders,
        keys={keys.fingerprint(pem): pem for pem in pems},
        largest_bytes=int(arguments.most_mb * 1e6),
    )
    place = Place(arguments.host, arguments.port, arguments.cert, arguments.key)
    if arguments.insecure:
        place = Place("127.0.0.1", arguments.port)
    serve(service(settings), place, _tell)


def _tell(address: str) -> None:
    print(f"the registry listens at {address}", flush=True)


def _check(arguments: argparse.Namespace) -> None:
    """Raise UserError for arguments that do not go together."""
    has_pair = arguments.cert is not None and arguments.key is not None
    if arguments.insecure:
        if arguments.cert is not None or arguments.key is not None:
            raise UserError("--insecure serves without TLS: leave out --cert and --key")
    elif not has_pair:
        raise UserError(
            "tokens travel over TLS: give --cert server.pem --key server.key, as fedlearn pki "
            "makes them, or --insecure for this machine alone"
        )
    if not 0 <= arguments.port < 65536:
        raise UserError(f"--port {arguments.port}: write a number up to 65535")
    if not 0 < arguments.most_mb <= 1e6:
        raise UserError(f"--most-mb {arguments.most_mb:g}: write megabytes above 0")


if __name__ == "__main__":
    sys.exit(main())
