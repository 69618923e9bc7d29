"""What a file is that is no npz archive, in words that help whoever chose it."""

from __future__ import annotations

# Bytes that `kind_of` looks at.
HEAD_BYTES = 512

# An npz is a zip archive; an empty one has the second head alone.
ZIP = (b"PK\x03\x04", b"PK\x05\x06")

# The first bytes of what people keep arrays in → what to say of the file.
HEADS = {
    b"\x93NUMPY": "holds a single array (.npy)",
    b"\x1f\x8b": "is compressed by gzip",
    b"\x89HDF": "is an HDF5 file",
    b"PAR1": "is a Parquet file",
    b"ARROW1": "is an Arrow file",
    b"MATLAB": "is a MATLAB file",
    b"SQLite format": "is an SQLite database",
    b"\x89PNG": "is a picture",
    b"\xff\xd8\xff": "is a picture",
}

# A pickle begins with this byte and the number of its protocol.
PICKLE = 0x80
PROTOCOLS = range(2, 6)

# Bytes that text does not have: control characters but for tab, line feed, form feed and
# carriage return.
NO_TEXT = set(range(32)) - {9, 10, 12, 13}


def kind_of(head: bytes) -> str:
    """Return what to say of a file with this head, as "is a pickle"; "": it is a zip archive."""
    if head.startswith(ZIP):
        return ""
    for start, words in HEADS.items():
        if head.startswith(start):
            return words
    if not head:
        return "is empty"
    if len(head) > 1 and head[0] == PICKLE and head[1] in PROTOCOLS:
        return "is a pickle, which is never read as it can run code"
    if not NO_TEXT & set(head):
        return "is text, such as CSV or JSON"
    return f"begins with {head[:4].hex(' ')}"
