"""Signatures: OpenSSF's own command and openssl accept them, and nobody else's key fits."""

import base64
import json
import subprocess
import sys
import warnings

import pytest

from fedlearn.errors import PackageError, UserError
from fedlearn.package import canonical, content, keys, signature
from fedlearn.package.accepting import Terms, accept
from fedlearn.package.manifest import moment
from fedlearn.package.parts import Support
from fedlearn.server.release import make_pair, read_key
from tests.package import small


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return make_pair(folder), folder


def signed(folder, *pairs, **changes):
    package = small.written(folder, **changes)
    content.write_signatures(
        folder, [signature.sign(package, key.sign, key.public_pem) for key in pairs]
    )
    return content.read(folder)


def terms(*pairs, **options):
    return Terms({key.fingerprint: key.public_pem for key in pairs}, **options)


def refusal(package, its_terms):
    with pytest.raises(PackageError) as caught:
        accept(package, its_terms)
    return caught.value


def test_model_signing_and_openssl_accept_it(pair, tmp_path):
    key, key_folder = pair
    folder = tmp_path / "p"
    signed(folder, key)
    options = ["--signature", f"{folder}/model.sig"]
    options += ["--public_key", f"{key_folder}/release.pem"]
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(folder)]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, check=False
    )
    assert "Verification succeeded" in done.stdout, done.stderr
    # By hand, with openssl alone: the envelope's payload and signature.
    envelope = json.loads((folder / "model.sig").read_text())["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"])
    (tmp_path / "s").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    head = f"DSSEv1 28 application/vnd.in-toto+json {len(payload)} "
    verified = subprocess.run(
        [
            "openssl",
            "dgst",
            "-sha256",
            "-verify",
            f"{key_folder}/release.pem",
            "-signature",
            str(tmp_path / "s"),
        ],
        input=head.encode() + payload,
        capture_output=True,
        check=False,
    )
    assert verified.stdout == b"Verified OK\n"
    # And it is no yes-man.
    (folder / "weights.bin").write_bytes(bytes(84))
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "Hash mismatch for 'weights.bin'" in done.stdout + done.stderr


def test_what_model_signing_signs_is_accepted(pair, tmp_path):
    key, key_folder = pair
    folder = tmp_path / "p"
    small.written(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import model_signing
    config = model_signing.signing.Config().use_elliptic_key_signer(
        private_key=key_folder / "release.key"
    )
    config.sign(folder, folder / "model.sig")
    assert accept(content.read(folder), terms(key)).signers == (key.fingerprint,)


def test_the_same_package_has_the_same_signature(pair, tmp_path):
    key, _ = pair
    signed(tmp_path / "a", key)
    signed(tmp_path / "b", key)
    assert small.sha256(tmp_path / "a") == small.sha256(tmp_path / "b")


def test_openssl_and_cryptography_agree(pair, tmp_path):
    key, _ = pair
    other = make_pair(tmp_path / "other")
    mark = key.sign(b"data")
    cases = [
        (key.public_pem, b"data", mark, True),
        (key.public_pem, b"dota", mark, False),
        (other.public_pem, b"data", mark, False),
        (key.public_pem, b"data", mark[:-1], False),
        (key.public_pem, b"data", b"", False),
        (key.public_pem.replace(b"A", b"B"), b"data", mark, False),
    ]
    for pem, data, its_mark, verdict in cases:
        assert keys.by_cryptography(pem, data, its_mark) is verdict
        assert keys.by_openssl(pem, data, its_mark) is verdict


def test_without_openssl_and_cryptography_the_line_says_what_to_install(
    pair, monkeypatch
):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="apt-get install openssl"):
        keys.by_openssl(pair[0].public_pem, b"", b"")


def test_public_keys_have_one_form(pair, tmp_path):
    pem = pair[0].public_pem
    path = tmp_path / "key.pem"
    path.write_bytes(b"\n" + pem.replace(b"\n", b"\r\n"))
    assert keys.read(path) == pem
    for text in (b"", b"x", pem[:-30], pem.replace(b"PUBLIC", b"PRIVATE")):
        path.write_bytes(text)
        with pytest.raises(UserError, match=r"holds no public key of EC P-256"):
            keys.read(path)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        keys.read(tmp_path / "nowhere")


def test_each_refusal_has_its_name(pair, tmp_path):
    key, _ = pair
    package = small.written(tmp_path / "unsigned")
    assert refusal(package, terms(key)).name == "unsigned"
    package = signed(
        tmp_path / "p",
        key,
        expires="2030-01-01T00:00:00Z",
        targets=(Support("onnxruntime", small.OPSET, ("jetson",)),),
    )
    other = make_pair(tmp_path / "other")
    sound: dict = {
        "floor": 3,
        "device": "jetson",
        "now": moment("2029-12-31T23:59:59Z"),
    }
    assert accept(package, terms(key, **sound)).floor == 3
    cases: dict = {
        "name": {"names": ("other-model",)},
        "target": {"device": "pi"},
        "counter": {"floor": 4},
        "expired": {"now": moment("2030-01-01T00:00:00Z")},
    }
    for name, change in cases.items():
        assert refusal(package, terms(key, **{**sound, **change})).name == name
    assert refusal(package, terms(key, **{**sound, "device": ""})).name == "target"
    assert refusal(package, terms(key, **{**sound, "opset": 16})).name == "target"
    assert (
        refusal(package, terms(key, **{**sound, "runtime": "tensorrt"})).name
        == "target"
    )
    assert refusal(package, terms(other, **sound)).name == "key"
    # A board without a clock takes what its counter allows.
    assert accept(package, terms(key, **{**sound, "now": None}))


def test_a_flipped_bit_of_manifest_or_signature_is_refused(pair, tmp_path):
    key, _ = pair
    folder = tmp_path / "p"
    signed(folder, key)
    for name in ("manifest.json", "model.sig"):
        data = (folder / name).read_bytes()
        for position in range(0, len(data), len(data) // 150):
            damaged = bytearray(data)
            damaged[position] ^= 1 << position % 7
            (folder / name).write_bytes(damaged)
            with pytest.raises(PackageError):
                accept(content.read(folder), terms(key))
        (folder / name).write_bytes(data)
    assert accept(content.read(folder), terms(key))


def envelope_of(folder, key, change):
    """Write a signature whose statement was changed before it was signed."""
    bundle = json.loads((folder / "model.sig").read_text())
    envelope = bundle["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    change(statement, bundle)
    payload = canonical.dumps(statement)
    envelope["payload"] = base64.b64encode(payload).decode()
    mark = key.sign(signature.signed_bytes(payload))
    envelope["signatures"][0]["sig"] = base64.b64encode(mark).decode()
    (folder / "model.sig").write_bytes(canonical.dumps(bundle))


@pytest.mark.parametrize(
    "change",
    [
        lambda statement, bundle: statement["predicate"]["resources"].pop(),
        lambda statement, bundle: statement.update(predicateType="x"),
        lambda statement, bundle: statement["subject"][0]["digest"].update(
            sha256="0" * 64
        ),
        lambda statement, bundle: statement["predicate"]["resources"].append(
            {"name": "model.py", "algorithm": "sha256", "digest": "0" * 64}
        ),
        lambda statement, bundle: bundle.update(mediaType="x"),
        lambda statement, bundle: bundle.update(more={}),
        lambda statement, bundle: bundle["dsseEnvelope"].update(
            payloadType="text/plain"
        ),
        lambda statement, bundle: bundle["dsseEnvelope"]["signatures"].append(
            bundle["dsseEnvelope"]["signatures"][0]
        ),
        lambda statement, bundle: bundle["verificationMaterial"].pop("publicKey"),
    ],
)
def test_a_statement_of_something_else_is_refused_though_its_signature_is_right(
    pair, tmp_path, change
):
    key, _ = pair
    folder = tmp_path / "p"
    signed(folder, key)
    envelope_of(folder, key, lambda statement, bundle: None)
    assert accept(content.read(folder), terms(key))
    envelope_of(folder, key, change)
    assert refusal(content.read(folder), terms(key)).name == "signature"


def test_a_rollback_takes_the_place_of_what_it_names_and_of_nothing_newer(
    pair, tmp_path
):
    key, _ = pair
    package = signed(tmp_path / "p", key, counter=3, rollback=7)
    acceptance = accept(package, terms(key, floor=7))
    # What it took back cannot come again, and neither can it once 8 is there.
    assert acceptance.floor == 8
    withdrawn = signed(tmp_path / "bad", key, counter=7)
    assert refusal(withdrawn, terms(key, floor=8)).name == "counter"
    assert refusal(package, terms(key, floor=8)).name == "counter"
    assert (
        accept(signed(tmp_path / "new", key, counter=8), terms(key, floor=8)).floor == 8
    )


def test_a_key_hands_over_to_another_that_has_signed_too(pair, tmp_path):
    key, _ = pair
    successor = make_pair(tmp_path / "next")
    handover = {"keys": (successor.public_pem.decode(),)}
    package = signed(tmp_path / "p", key, successor, **handover)
    for accepted in (terms(key), terms(successor)):
        acceptance = accept(package, accepted)
        assert dict(acceptance.keys) == {successor.fingerprint: successor.public_pem}
    only_old = signed(tmp_path / "q", key, **handover)
    error = refusal(only_old, terms(key))
    assert error.name == "key"
    assert successor.fingerprint in str(error)
    # By itself the new key means nothing to a device that knows the old one.
    only_new = signed(tmp_path / "r", successor, **handover)
    assert refusal(only_new, terms(key)).name == "key"
    # Without a handover a device's keys stay as they are.
    plain = signed(tmp_path / "s", key)
    assert accept(plain, terms(key, successor)).keys == terms(key, successor).keys


def test_model_signing_accepts_each_of_two_signatures(pair, tmp_path):
    key, key_folder = pair
    successor = make_pair(tmp_path / "next")
    folder = tmp_path / "p"
    signed(folder, key, successor, keys=(successor.public_pem.decode(),))
    for name, its_folder in (
        ("model.sig", key_folder),
        ("model.next.sig", tmp_path / "next"),
    ):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "model_signing",
                "verify",
                "key",
                str(folder),
                "--signature",
                f"{folder}/{name}",
                "--public_key",
                f"{its_folder}/release.pem",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Verification succeeded" in done.stdout, done.stderr


def test_one_key_signs_packages_and_bundles(pair, tmp_path):
    key, folder = pair
    assert (folder / "release.key").stat().st_mode & 0o777 == 0o600
    assert read_key(folder / "release.key").fingerprint == key.fingerprint
    assert key.signs_models
    with pytest.raises(UserError, match="is there already"):
        make_pair(folder)
    # As install.sh verifies a bundle's list.
    (tmp_path / "SHA256SUMS").write_bytes(b"sums")
    (tmp_path / "sig").write_bytes(key.sign(b"sums"))
    done = subprocess.run(
        [
            "openssl",
            "pkeyutl",
            "-verify",
            "-pubin",
            "-inkey",
            f"{folder}/release.pem",
            "-rawin",
            "-in",
            str(tmp_path / "SHA256SUMS"),
            "-sigfile",
            str(tmp_path / "sig"),
        ],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
