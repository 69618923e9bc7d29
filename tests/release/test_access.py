"""Tokens of a registry: shown once, kept as hashes, and compared without a hint."""

import pytest

from fedlearn.commands import registry
from fedlearn.errors import UserError
from fedlearn.release import access


def owner(token, holders):
    holder = access.holder_of(token, holders)
    assert holder is not None
    return holder


def test_a_token_is_kept_as_its_hash(tmp_path):
    path = tmp_path / "tokens"
    first = access.new_token(path, "ci", access.WRITE)
    second = access.new_token(path, "board-7", access.READ)
    assert first not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    holders = access.read(path)
    assert owner(first, holders).writes
    assert not owner(second, holders).writes
    for wrong in ("", first[:-1], first + "x", "é"):
        assert access.holder_of(wrong, holders) is None
    # A new token of a name ends the former one.
    third = access.new_token(path, "ci", access.READ)
    assert access.holder_of(first, access.read(path)) is None
    assert owner(third, access.read(path)).name == "ci"


def test_a_file_that_says_something_else_is_one_line(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("# comment\n\nci write abc\n")
    with pytest.raises(UserError, match="line 3 of the token file"):
        access.read(path)
    with pytest.raises(UserError, match="cannot be a name"):
        access.new_token(tmp_path / "new", "a b", access.READ)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], "tokens travel over TLS: give --cert server.pem --key server.key"),
        (["--cert", "c"], "tokens travel over TLS"),
        (["--insecure", "--cert", "c"], "--insecure serves without TLS"),
        (["--insecure", "--port", "70000"], "--port 70000"),
        (["--insecure", "--most-mb", "0"], "--most-mb 0"),
        (["--insecure"], "the token file 'nowhere' cannot be read"),
        (["--cert", "c", "--key", "k", "--token-file", "empty"], "lets nobody in"),
        (
            ["--cert", "c", "--key", "k", "--token-file", "one"],
            "--cert c --key k: No such",
        ),
        (
            ["--insecure", "--token-file", "one", "--accept", "x"],
            "the key 'x' cannot be read",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, options, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_text("")
    access.new_token(tmp_path / "one", "ci", access.WRITE)
    command = ["serve", "--registry", "r", "--token-file", "nowhere", *options]
    assert registry.main(command) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


def test_the_token_stands_alone_on_standard_output(tmp_path, capsys):
    path = tmp_path / "tokens"
    assert registry.main(["token", "ci", "--write", "--token-file", str(path)]) == 0
    captured = capsys.readouterr()
    token = captured.out.strip()
    assert owner(token, access.read(path)).writes
    assert "lets 'ci' write" in captured.err
