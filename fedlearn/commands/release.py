"""The command ``fedlearn release``: release a model, and say which version is the stable one."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fedlearn.commands.arguments import Parser, ended
from fedlearn.commands.places import check_outside
from fedlearn.commands.release_arguments import expiry
from fedlearn.errors import ConfigError, UserError
from fedlearn.reporting.units import bytes_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fedlearn.package.content import Package
    from fedlearn.release.building import Base, Release
    from fedlearn.release.registry import Registry
    from fedlearn.release.signings import Signing
    from fedlearn.release.tables import Move, Version

EPILOG = (
    "fedlearn release list|promote|rollback|history|fetch: what there is, and which version "
    "devices should run (see: fedlearn release list --help). exit codes: 0 done, 2 wrong "
    "input, 3 the registry or the package cannot be used"
)

# Characters of a hash where it is shown beside others.
_SHORT = 12

# Where a package is written until it is in the registry; after a day nobody writes it.
_BUILDING = ".building-"
_STALE_S = 86_400.0


def parser() -> Parser:
    """Return the arguments of a release."""
    parser = Parser(
        prog="fedlearn release",
        description="Release the model of a run, as a difference of a few kilobytes from the "
        "release before; or keep a package that is there, as it is.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "source", metavar="RUN|PACKAGE", help="a run folder, weights, or a package"
    )
    _add_registry(parser, "made where there is none")
    parser.add_argument(
        "--alias",
        metavar="WORD",
        help="points to the release from now on (default: candidate, where it is new)",
    )
    _add_run(parser)
    _add_difference(parser)
    return parser


def _add_run(parser: Parser) -> None:
    group = parser.add_argument_group("of a run")
    group.add_argument(
        "--out", type=Path, metavar="DIR", help="write the package here too, to sign it"
    )
    group.add_argument("--config", help="of weights that lie in no run folder")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change one key of the config, such as the place of the data",
    )
    group.add_argument(
        "--name", default="", help="the model's name (default: the experiment's)"
    )
    group.add_argument(
        "--expires",
        metavar="DATE",
        help="no device takes it from then on: YYYY-MM-DD, or YYYY-MM-DDThh:mm:ssZ (UTC)",
    )


def _add_difference(parser: Parser) -> None:
    group = parser.add_argument_group("the difference from the release before")
    group.add_argument(
        "--codec", default="cvq(1,1)", help="how it is encoded (default: %(default)s)"
    )
    group.add_argument(
        "--gate",
        type=float,
        default=0.5,
        metavar="POINTS",
        help="of accuracy that it may cost; beyond that the weights go whole "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--whole", action="store_true", help="release the weights as they were trained"
    )


def _add_registry(parser: Parser, about: str) -> None:
    parser.add_argument(
        "--registry",
        type=Path,
        required=True,
        metavar="DIR",
        help=f"the registry's folder; {about}",
    )


def list_parser() -> Parser:
    """Return the arguments of ``fedlearn release list``."""
    parser = Parser(
        prog="fedlearn release list", description="List the versions in a registry."
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="of this model alone")
    _add_registry(parser, "as fedlearn release made it")
    return parser


def promote_parser() -> Parser:
    """Return the arguments of ``fedlearn release promote``."""
    parser = Parser(
        prog="fedlearn release promote",
        description="Make a version the stable one, and what was stable the previous one.",
    )
    parser.add_argument(
        "version", metavar="NAME[:N]", help="which one (default: the candidate)"
    )
    _add_registry(parser, "as fedlearn release made it")
    return parser


def rollback_parser() -> Parser:
    """Return the arguments of ``fedlearn release rollback``."""
    parser = Parser(
        prog="fedlearn release rollback",
        description="Make the previous version the stable one again.",
    )
    parser.add_argument("name", metavar="NAME")
    _add_registry(parser, "as fedlearn release made it")
    return parser


def history_parser() -> Parser:
    """Return the arguments of ``fedlearn release history``."""
    parser = Parser(
        prog="fedlearn release history",
        description="Tell every move of a model's aliases, and every signature: when, by whom, "
        "from which run or key.",
    )
    parser.add_argument("name", metavar="NAME")
    _add_registry(parser, "as fedlearn release made it")
    return parser


def fetch_parser() -> Parser:
    """Return the arguments of ``fedlearn release fetch``."""
    parser = Parser(
        prog="fedlearn release fetch",
        description="Write a version's package to a new folder.",
    )
    parser.add_argument(
        "version", metavar="NAME[:N|@ALIAS]", help="which one (default: the newest)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    _add_registry(parser, "as fedlearn release made it")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, tuple[Callable[[], Parser], Callable[..., None]]] = {
        "list": (list_parser, _list),
        "promote": (promote_parser, _promote),
        "rollback": (rollback_parser, _rollback),
        "history": (history_parser, _history),
        "fetch": (fetch_parser, _fetch),
    }
    # A folder of such a name is written with its path: ./list
    if words and words[0] in commands:
        make_parser, run = commands[words[0]]
        arguments = make_parser().parse_args(words[1:])
        return ended(lambda: run(arguments))
    arguments = parser().parse_args(words)
    return ended(lambda: _release(arguments))


def _release(arguments: argparse.Namespace) -> None:
    from fedlearn.package.content import is_package
    from fedlearn.release.registry import check_alias

    # Checked before torch is imported: that takes seconds.
    source = Path(arguments.source).expanduser()
    if not source.exists():
        raise UserError(f"there is no '{source}'; give a run folder or a package")
    check_alias(arguments.alias or "")
    check_outside(arguments.registry, "--registry")
    if source.is_dir() and is_package(source):
        _keep(arguments, source)
        return
    _check(arguments)
    _build(arguments)


def _check(arguments: argparse.Namespace) -> None:
    """Raise UserError for arguments with which no release can be built."""
    from fedlearn.codec import canonical, codec

    if arguments.out is not None and arguments.out.exists():
        raise UserError(f"--out {arguments.out} is there already; name a new folder")
    if arguments.out is not None:
        check_outside(arguments.out, "--out")
    if not 0 <= arguments.gate <= 100:
        raise UserError(f"--gate {arguments.gate:g}: write points, from 0 to 100")
    canonical(arguments.codec, ConfigError)
    if not codec(arguments.codec).for_differences:
        raise UserError(
            f"--codec {arguments.codec} is for whole models; take one for differences, such "
            "as cvq(1,1), or release with --whole"
        )
    expiry(arguments.expires)


def _keep(arguments: argparse.Namespace, source: Path) -> None:
    """Keep a package as it is."""
    from fedlearn.package import content
    from fedlearn.release.registry import Registry

    if arguments.out is not None or arguments.whole:
        raise UserError(
            f"'{source}' is a package, which is kept as it is: leave out --out and --whole"
        )
    package = content.read(source, needs_deltas=True)
    with Registry(arguments.registry, create=True) as registry:
        version = registry.add(package, alias=arguments.alias)
        paths = registry.paths(version)
        words = _words(registry, version)
    signers = sum(path.endswith(".sig") for path in paths)
    signed = f"{signers} signature{'s' * (signers != 1)}"
    print(f"{version.name} {version.counter}: {words or 'no alias'}, {signed}")
    print(f"sha256 {version.sha256}")


def _build(arguments: argparse.Namespace) -> None:
    """Release the model of a run."""
    from fedlearn.release.building import base_of, inherited, release
    from fedlearn.release.packing import Wishes, notes
    from fedlearn.release.registry import Registry
    from fedlearn.runs.trained import load

    trained = load(arguments.source, arguments.config, arguments.set)
    for note in notes(trained):
        print(f"note: {note}", file=sys.stderr)
    wishes = Wishes(name=arguments.name, expires=expiry(arguments.expires))
    with Registry(arguments.registry, create=True) as registry:
        base = base_of(registry, arguments.name or trained.name)
        with _folder(arguments) as folder:
            built = release(
                trained,
                folder,
                inherited(wishes, base),
                base,
                arguments.codec,
                arguments.gate,
                arguments.whole,
            )
            run = str(Path(arguments.source).expanduser().resolve())
            version = registry.add(built.package, run=run, alias=arguments.alias)
            words = _words(registry, version)
    print(f"{version.name} {version.counter}: {words or 'no alias'}")
    _tell(arguments, version, built, base)


@contextmanager
def _folder(arguments: argparse.Namespace) -> Iterator[Path]:
    """Yield where the package is written: ``--out``, or a folder for as long as it is added."""
    if arguments.out is not None:
        yield arguments.out
        return
    _sweep(arguments.registry)
    # Beside the registry's files: the disk that has to hold it anyway.
    room = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=arguments.registry))
    try:
        yield room / "package"
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _sweep(registry: Path) -> None:
    """Remove what killed commands left; another command may still write the newer ones."""
    for folder in registry.glob(f"{_BUILDING}*"):
        # Another command may have swept it just now.
        with suppress(FileNotFoundError):
            if time.time() - folder.stat().st_mtime > _STALE_S:
                shutil.rmtree(folder, ignore_errors=True)


def _tell(
    arguments: argparse.Namespace, version: Version, built: Release, base: Base | None
) -> None:
    """Print what was released."""
    weights = built.package.manifest.files["weights.bin"].bytes
    if built.payload_bytes is None or base is None:
        print(f"weights      whole, {bytes_text(weights)}: {built.whole_why}")
    else:
        print(
            f"weights      {bytes_text(built.payload_bytes)} from version "
            f"{base.version.counter}; whole {bytes_text(weights)}"
        )
    trained = f"{100 * built.trained_accuracy:.2f} %"
    print(f"accuracy     {100 * built.accuracy:.2f} % (trained: {trained})")
    print(f"weights sha256 {version.weights_sha256}")
    print(f"sha256       {version.sha256}")
    if arguments.out is not None:
        print(
            f"next: fedlearn sign {arguments.out} --key release.key, then "
            f"fedlearn release {arguments.out} --registry {arguments.registry}"
        )


def _words(registry: Registry, version: Version) -> str:
    """Return the aliases that point to a version."""
    aliases = registry.aliases(version.name)
    return ", ".join(word for word, to in aliases.items() if to == version.counter)


def _open(arguments: argparse.Namespace) -> Registry:
    from fedlearn.release.registry import Registry

    return Registry(arguments.registry)


def _list(arguments: argparse.Namespace) -> None:
    from fedlearn.release.registry import Reference

    with _open(arguments) as registry:
        names = registry.names()
        if arguments.name:
            names = [registry.find(Reference(arguments.name)).name]
        for name in names:
            for version in registry.versions(name):
                print(
                    f"{name:<20} {version.counter:>5}  {bytes_text(version.bytes):>9}  "
                    f"{version.time}  {version.weights_sha256[:_SHORT]}  "
                    f"{_words(registry, version)}".rstrip()
                )


def _promote(arguments: argparse.Namespace) -> None:
    from fedlearn.release.registry import Reference

    reference = Reference.of(arguments.version)
    if reference.alias:
        raise UserError(f"'{arguments.version}': write NAME, or NAME:COUNTER")
    with _open(arguments) as registry:
        version = registry.promote(reference.name, reference.counter)
    print(f"{version.name} {version.counter}: stable")


def _rollback(arguments: argparse.Namespace) -> None:
    with _open(arguments) as registry:
        version = registry.rollback(arguments.name)
    print(f"{version.name} {version.counter}: stable")


def _history(arguments: argparse.Namespace) -> None:
    from fedlearn.release.registry import Reference

    with _open(arguments) as registry:
        registry.find(Reference(arguments.name))
        runs = {v.counter: v.run for v in registry.versions(arguments.name)}
        lines = []
        for move in registry.history(arguments.name):
            lines.append((move.number, 0, _move_line(move, runs)))
        for signing in registry.signings(arguments.name):
            lines.append((signing.move, signing.number, _signing_line(signing)))
    for _, _, line in sorted(lines):
        print(line)


def _move_line(move: Move, runs: Mapping[int, str]) -> str:
    before = "none" if move.before is None else str(move.before)
    after = "none" if move.after is None else str(move.after)
    run = runs.get(move.after or 0, "")
    return (
        f"{move.time}  {move.action:<9}{move.alias:<10} {before:>5} → {after:<5} "
        f"{move.who}  {run}".rstrip()
    )


def _signing_line(signing: Signing) -> str:
    """Return a change of a signature: of which version, and by which keys."""
    action = "unsign" if signing.after is None else "sign"
    keys = []
    for key in (signing.before, signing.after):
        keys.append("none" if key is None else key[:_SHORT] or "unknown")
    return (
        f"{signing.time}  {action:<9}{signing.counter}: {signing.path}, key "
        f"{keys[0]} → {keys[1]} {signing.who}"
    )


def _fetch(arguments: argparse.Namespace) -> None:
    from fedlearn.release.registry import Reference

    check_outside(arguments.out, "--out")
    with _open(arguments) as registry:
        version = registry.find(Reference.of(arguments.version))
        package: Package = registry.export(version, arguments.out)
    print(f"{arguments.out}: {version.name} {version.counter}, sha256 {package.sha256}")


if __name__ == "__main__":
    sys.exit(main())
