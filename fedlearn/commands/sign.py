"""The command ``fedlearn sign``: sign a package, or make the key that signs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fedlearn.commands.arguments import Parser, ended
from fedlearn.commands.authority import require_cryptography, tell_readers
from fedlearn.commands.places import check_outside
from fedlearn.errors import UserError

EPILOG = (
    "A signature is in the format of OpenSSF Model Signing: 'model_signing verify key' reads "
    "it too. Keep the key secret, and a copy of it: who has it can make any device run what "
    "they like. exit codes: 0 done, 2 wrong input, 3 not a sound package, or a file that "
    "cannot be written"
)


def parser() -> Parser:
    """Return the command's arguments."""
    parser = Parser(
        prog="fedlearn sign",
        description="Sign a package with a release key.",
        epilog=EPILOG,
    )
    parser.add_argument("package", nargs="?", metavar="DIR", help="the package")
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        type=Path,
        metavar="KEY",
        help="the release key (EC P-256, PEM); a second one for a package that hands over "
        "from the one to the other",
    )
    parser.add_argument(
        "--new-key",
        type=Path,
        metavar="DIR",
        help="make a key instead: release.key, for its owner alone, and release.pem, for "
        "the devices",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    _check(arguments)
    require_cryptography()
    if arguments.new_key is not None:
        _make(arguments.new_key)
    else:
        _sign(Path(arguments.package), arguments.key)


def _check(arguments: argparse.Namespace) -> None:
    """Raise UserError for arguments that do not go together."""
    if arguments.new_key is not None:
        if arguments.package is not None or arguments.key:
            raise UserError("--new-key makes a key and signs nothing: give it alone")
        check_outside(arguments.new_key, "--new-key", fills=True)
        return
    if arguments.package is None:
        raise UserError("name a package: fedlearn sign DIR --key KEY")
    if not arguments.key:
        raise UserError(
            "name a key: --key release.key; fedlearn sign --new-key DIR makes one"
        )
    if len(arguments.key) > 2:
        raise UserError(
            "a package has two signatures at most: give --key twice at most"
        )


def _make(folder: Path) -> None:
    from fedlearn.server.release import KEY_FILE, PUBLIC_FILE, make_pair

    key = make_pair(folder)
    print(f"{folder / KEY_FILE}: the key; keep it secret, and a copy of it")
    print(f"{folder / PUBLIC_FILE}: its public half, for the devices")
    print(f"sha256 of the public half {key.fingerprint}")


def _sign(folder: Path, paths: Sequence[Path]) -> None:
    from fedlearn.package import content, signature
    from fedlearn.server.release import read_key

    keys = [read_key(path) for path in paths]
    for path, key in zip(paths, keys, strict=True):
        if not key.signs_models:
            raise UserError(
                f"'{path}' is an Ed25519 key, which the format of model signatures does not "
                "know; make one that signs both: fedlearn sign --new-key DIR"
            )
    for path in paths:
        tell_readers(path)
    if len({key.fingerprint for key in keys}) < len(keys):
        raise UserError("--key names one key twice")
    # The whole package, and its differences: nobody signs what is damaged or cut short.
    package = content.read(folder, needs_deltas=True)
    signatures = [signature.sign(package, key.sign, key.public_pem) for key in keys]
    content.write_signatures(folder, signatures)
    manifest = package.manifest
    for name, key in zip(content.SIGNATURES, keys, strict=False):
        print(f"{folder / name}: {manifest.name} {manifest.counter}, signed by the key")
        print(f"  {key.fingerprint}")


if __name__ == "__main__":
    sys.exit(main())
