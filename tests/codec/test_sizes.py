"""What decoders made on torch they make without it, at every size; see `sizes`."""

import base64
import hashlib
import json

import pytest

from fedlearn.codec import codec
from tests.codec.sizes import FILE, SEED, cases, change, context, sha256

GOLDENS = json.loads(FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", sorted({golden["codec"] for golden in GOLDENS}))
def test_every_size_decodes_to_the_bits_that_torch_gave(text):
    for golden in GOLDENS:
        if golden["codec"] != text:
            continue
        size = golden["size"]
        known = context(size, golden["moved"])
        if "body" in golden:
            body = base64.b64decode(golden["body"])
        else:
            body = bytes(codec(text).encode(change(text, size), SEED, known))
            assert hashlib.sha256(body).hexdigest() == golden["body_sha256"], size
        decoded = codec(text).decode(body, SEED, known)
        assert sha256(decoded) == golden["decoded"], (size, golden["moved"])


def test_every_case_is_kept():
    kept = {(golden["codec"], golden["size"], golden["moved"]) for golden in GOLDENS}
    assert kept >= set(cases())
