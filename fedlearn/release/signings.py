"""Who has signed a registry's versions: each signature that came, was replaced or went.

A signature does not move an alias, and decides as much: devices take what a key has signed
that they know. So the history tells it beside the moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fedlearn.errors import UserError
from fedlearn.release.tables import Version


@dataclass(frozen=True)
class Signing:
    """A change of one of a version's signatures.

    number: in their order. move: the last move of an alias before it, 0 without one. path:
    one of `fedlearn.package.content.SIGNATURES`. before, after: SHA-256 of the public keys;
    None: there was none, or there is none now; "": of a file that could not be read.
    """

    number: int
    move: int
    name: str
    counter: int
    path: str
    before: str | None
    after: str | None
    who: str
    time: str


def changed(
    before: Mapping[str, str], after: Mapping[str, str], replaces: bool
) -> Iterator[tuple[str, str | None, str | None]]:
    """Yield the paths whose signature changes, with the SHA-256 of the files.

    before, after: the files' SHA-256 by path. replaces: signatures that came with others than
    these go, too: a second one that its first one has left vouches for nothing. A package
    that comes without signatures takes none away.
    """
    for path, sha256 in after.items():
        if before.get(path) != sha256:
            yield path, before.get(path), sha256
    if after and replaces:
        for path, sha256 in before.items():
            if path not in after:
                yield path, sha256, None


def check_kept(version: Version, path: str, before: str | None) -> None:
    """Refuse another signature than the one that is there. Raises UserError."""
    if before is not None:
        raise UserError(
            f"{version.name} {version.counter} has another {path} already; release the "
            "package on the registry's machine to replace it"
        )
