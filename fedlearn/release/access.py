"""Who may use a registry over the network: a file of names, rights and hashes of tokens.

A token is shown once, when it is made. The file has only its SHA-256, so who reads the file
can let nobody in.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from fedlearn.errors import RecordError, UserError
from fedlearn.system import files

READ = "read"
WRITE = "write"
RIGHTS = (READ, WRITE)

# Random bytes of a token.
_TOKEN_BYTES = 32

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_LINE = re.compile(rf"({_NAME.pattern}) (read|write) ([0-9a-f]{{64}})")


@dataclass(frozen=True)
class Holder:
    """Who holds a token. right: `READ`, or `WRITE`, which includes it."""

    name: str
    right: str
    token_sha256: str

    @property
    def writes(self) -> bool:
        """Tell whether packages may be uploaded."""
        return self.right == WRITE


def read(path: Path) -> list[Holder]:
    """Return who holds a token. Raises UserError for a file that says something else."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the token file '{path}' cannot be read: {error}; fedlearn registry token "
            "NAME --token-file FILE makes one"
        ) from None
    holders = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise UserError(
                f"line {number} of the token file '{path}' is not: NAME read|write SHA256"
            )
        holders.append(Holder(match[1], match[2], match[3]))
    return holders


def new_token(path: Path, name: str, right: str) -> str:
    """Return a new token of a name, whose hash is added to a file.

    A name has one token: a former one ends. Raises UserError for a name that cannot be one,
    RecordError where the file cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise UserError(
            f"'{name}' cannot be a name: use letters, digits, '.', '_', '@', '-'"
        )
    holders = read(path) if path.exists() else []
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    digest = sha256(token.encode()).hexdigest()
    holders = [holder for holder in holders if holder.name != name]
    lines = []
    for holder in [*holders, Holder(name, right, digest)]:
        lines.append(f"{holder.name} {holder.right} {holder.token_sha256}\n")
    try:
        files.replace(path, "".join(lines).encode())
    except OSError as error:
        raise RecordError(
            f"the token file '{path}' cannot be written: {error.strerror or error}"
        ) from None
    return token


def holder_of(token: str, holders: Sequence[Holder]) -> Holder | None:
    """Return who holds a token; None: nobody. It takes as long for each token."""
    digest = sha256(token.encode()).hexdigest()
    owner = None
    # All are compared, each in constant time: neither tells how near a guess was.
    for holder in holders:
        if hmac.compare_digest(digest, holder.token_sha256):
            owner = holder
    return owner
