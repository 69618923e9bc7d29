"""``fedlearn package verify|show|diff`` and ``fedlearn sign``, and their one line for mistakes."""

import json

import numpy as np
import pytest

from fedlearn.commands import package, sign
from fedlearn.package import content
from fedlearn.package.parts import Delta, Support, delta_file
from fedlearn.server.release import make_pair
from tests.package import small


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small.written(tmp_path / "p")
    make_pair(tmp_path / "keys")
    return tmp_path


def test_a_key_a_signature_and_a_check(folder, capsys):
    assert sign.main(["--new-key", "new"]) == 0
    out = capsys.readouterr().out
    assert "new/release.key: the key; keep it secret" in out
    assert sign.main(["p", "--key", "keys/release.key"]) == 0
    assert "p/model.sig: small 3, signed by the key" in capsys.readouterr().out
    assert (
        package.main(["verify", "p", "--key", "keys/release.pem", "--floor", "3"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        *("package", "content", "signature", "accepted", "golden"),
    ]
    assert "is allowed" in lines[-1]
    # Without a key all else is checked, and the line says so.
    assert package.main(["verify", "p", "--no-run"]) == 0
    assert "not checked: name the key" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--floor", "4"], "refused (counter): the package has counter 3, below"),
        (["--key", "other/release.pem"], "refused (key): the package is signed by"),
    ],
)
def test_a_refusal_is_one_line_with_its_name(folder, capsys, options, text):
    sign.main(["--new-key", "other"])
    sign.main(["p", "--key", "keys/release.key"])
    capsys.readouterr()
    if "--key" not in options:
        options = [*options, "--key", "keys/release.pem"]
    assert package.main(["verify", "p", "--no-run", *options]) == 3
    error = capsys.readouterr().err
    assert error.startswith(f"fedlearn: {text}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "options", "name"),
    [
        ({"expires": "2001-01-01T00:00:00Z"}, [], "expired"),
        (
            {"targets": (Support("onnxruntime", 17, ("pi",)),)},
            ["--target", "x"],
            "target",
        ),
    ],
)
def test_an_expired_package_and_one_for_others(folder, capsys, changes, options, name):
    small.written(folder / "q", **changes)
    sign.main(["q", "--key", "keys/release.key"])
    verify = ["verify", "q", "--no-run", "--key", "keys/release.pem", *options]
    assert package.main(verify) == 3
    assert f"refused ({name}): " in capsys.readouterr().err


def test_show_says_what_a_package_is(folder, capsys):
    assert package.main(["show", "p"]) == 0
    out = capsys.readouterr().out
    assert "package       small 3" in out
    assert "samples       uint8, cast to float32, divided by 255" in out
    assert "signed by     nobody" in out
    assert package.main(["show", "p", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value == json.loads((folder / "p" / "manifest.json").read_bytes())


def test_diff_says_what_a_device_has_to_fetch(folder, capsys):
    moved = small.W.copy()
    moved[0, 0] += 1
    files = small.files(moved)
    base = content.read(folder / "p").manifest.weights_sha256
    payload = b"x" * 17
    delta = Delta(base, delta_file(base), content.listed(payload).sha256, 17)
    newer = small.manifest(files, counter=4, deltas=(delta,))
    content.write(folder / "q", newer, {**files, delta.file: payload})
    assert package.main(["diff", "p", "q"]) == 0
    out = capsys.readouterr().out
    assert "counter       3 → 4" in out
    assert "same          graph.onnx" in out
    assert "differs       weights.bin, 84 B" in out
    share = 100 / np.linalg.norm([*small.W.reshape(-1), *small.B])
    assert f"weights       1 of 21 moved, by {share:.2f} % of their norm" in out
    assert "by a difference" in out
    assert package.main(["diff", "q", "p"]) == 0
    assert "there is no difference from the old weights" in capsys.readouterr().out
    assert package.main(["diff", "p", "p"]) == 0
    assert "every byte but the signatures'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "options", "text"),
    [
        (package, ["run", "--out", "p"], "--out p is there already; name a new folder"),
        (package, ["run", "--out", "q"], "there is no run 'run'; give a run folder"),
        (
            package,
            ["keys", "--out", "q", "--counter", "0"],
            "--counter 0: write a number",
        ),
        (package, ["keys", "--out", "q", "--expires", "soon"], "write YYYY-MM-DD"),
        (package, ["keys", "--out", "q", "--expires", "2001-01-01"], "is past, so no"),
        (
            package,
            ["keys", "--out", "q", "--rollback", "3", "--counter", "4"],
            "--rollback 3",
        ),
        (
            package,
            ["keys", "--out", "q", "--next-key", "x"],
            "the key 'x' cannot be read",
        ),
        (
            package,
            ["keys", "--out", "q"],
            "'keys' is no run folder: it has no config.toml",
        ),
        (package, ["verify", "nowhere"], "'nowhere' is no folder; give a package"),
        (package, ["verify", "keys"], "'keys' has no manifest.json; give a package"),
        (package, ["verify", "p", "--key", "keys/release.key"], "holds no public key"),
        (sign, [], "name a package: fedlearn sign DIR --key KEY"),
        (sign, ["p"], "name a key: --key release.key"),
        (
            sign,
            ["p", "--key", "nowhere.key"],
            "cannot use the release key 'nowhere.key'",
        ),
        (sign, ["p", "--key", "keys/release.pem"], "holds no release key"),
        (sign, ["--new-key", "keys"], "is there already, and devices may know it"),
        (sign, ["p", "--new-key", "k2"], "--new-key makes a key and signs nothing"),
        (sign, ["p", *["--key", "keys/release.key"] * 2], "--key names one key twice"),
        (sign, ["p", *["--key", "keys/release.key"] * 3], "twice at most"),
    ],
)
def test_a_mistake_is_one_line(folder, capsys, command, options, text):
    before = small.sha256(folder)
    capsys.readouterr()
    assert command.main(options) in (2, 3)
    error = capsys.readouterr().err
    assert text in error
    assert error.startswith("fedlearn: ") and error.count("\n") == 1
    # No key is made by a mistyped name, and nothing else either.
    assert small.sha256(folder) == before


def test_a_damaged_package_is_not_signed(folder, capsys):
    (folder / "p" / "weights.bin").write_bytes(bytes(84))
    assert sign.main(["p", "--key", "keys/release.key"]) == 3
    assert "refused (hash): 'weights.bin'" in capsys.readouterr().err
    assert not (folder / "p" / "model.sig").exists()


def test_a_key_of_ed25519_is_named(folder, capsys):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "old.key").write_bytes(pem)
    assert sign.main(["p", "--key", "old.key"]) == 2
    assert "'old.key' is an Ed25519 key" in capsys.readouterr().err


def test_the_second_signature_goes_with_the_second_key(folder):
    sign.main(["--new-key", "other"])
    two = ["--key", "keys/release.key", "--key", "other/release.key"]
    assert sign.main(["p", *two]) == 0
    assert (folder / "p" / "model.next.sig").exists()
    assert sign.main(["p", "--key", "keys/release.key"]) == 0
    assert not (folder / "p" / "model.next.sig").exists()
