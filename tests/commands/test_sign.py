"""``fedlearn sign``: the key is a secret, and a file that others read is none."""

import pytest

from fedlearn.commands import sign
from tests.package import small


@pytest.mark.parametrize(
    ("mode", "words"),
    [(0o600, ""), (0o640, "its group can read"), (0o604, "every user"), (0o620, "its")],
)
def test_a_key_that_others_read_is_told_of(mode, words, tmp_path, capsys):
    small.written(tmp_path / "package")
    assert sign.main(["--new-key", str(tmp_path / "keys")]) == 0
    key = tmp_path / "keys" / "release.key"
    key.chmod(mode)
    capsys.readouterr()
    assert sign.main([str(tmp_path / "package"), "--key", str(key)]) == 0
    error = capsys.readouterr().err
    if words:
        assert words in error
        assert f"chmod 600 {key}" in error
    else:
        assert error == ""
