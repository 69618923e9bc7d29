"""The bundle: what is checked before the work, and an installation without a network.

In between: our own wheel, and other machines' wheels.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from fedlearn.bundling import archive, commands, own
from fedlearn.bundling.wheels import TARGETS, download, lock, resolve
from fedlearn.commands import bundle, serve
from fedlearn.commands.bundle import main
from fedlearn.errors import RecordError, RunError, UserError
from fedlearn.server.release import ReleaseKey, release_key

ROOT = Path(__file__).parents[2]
EDGE = ["numpy>=1.24", "grpcio>=1.60", "protobuf>=6.31.1,<8"]
VALUES = dict.fromkeys(
    ("TARGET", "MACHINE", "PYTHON", "ADVICE", "COORDINATOR", "ENROLLMENT", "SETTINGS"),
    "",
)
pytestmark = pytest.mark.timeout(900)  # downloads, on a busy machine


@pytest.fixture(scope="session")
def registry(tmp_path_factory):
    """The package registry, through pip."""
    try:
        commands.pip(
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(tmp_path_factory.mktemp("try")),
            "typing-extensions",
        )
    except RunError as error:
        pytest.skip(f"no package registry: {error}")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "jp"], ("no such target", "jp6, jp7, pi, x86")),
        (["--target", "jp6", "--python", "3.9"], ("from 3.10",)),
        (["--target", "jp6", "--python", "python3"], ("write 3.X",)),
        (["--target", "jp6", "--coordinator", "host"], ("HOST:PORT",)),
        (
            ["--target", "jp6", "--client", "1", "--pki", "nowhere"],
            ("nowhere", "fedlearn pki init"),
        ),
        (["--target", "jp6", "--settings", "nothing.ini"], ("nothing.ini",)),
        (["--target", "jp6", "--out", "nowhere/x.tar.xz"], ("nowhere",)),
        (["--target", "jp6", "--with-torch", "torch.whl"], ("torch.whl",)),
        (["--target", "x86", "--with-torch"], ("CUDA", "--with-torch FILE.whl")),
        (["--target", "jp6"], ("a bundle is signed", "--key release.key")),
        (["--target", "jp6", "--key", "nowhere/x"], ("nowhere/x", "--key")),
    ],
)
def test_a_mistake_is_one_line_before_any_work(
    options, words, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    # 3: a file that cannot be written.
    assert main(options) == (3 if "nowhere/x" in options else 2)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert all(word in told for word in words)
    assert not list(tmp_path.iterdir())


def test_without_uv_the_message_names_the_install_line(monkeypatch):
    monkeypatch.setattr(commands, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="pip install uv"):
        commands.uv("--version")


def test_a_failed_command_says_why():
    with pytest.raises(RunError, match=r"pip failed: .*unknown command"):
        commands.pip("fly")


def test_what_stands_in_the_installer_is_quoted_for_the_shell(tmp_path):
    text = archive.installer(
        {**VALUES, "TARGET": "it's $(touch broken)", "PYTHON": "9.9", "MACHINE": "none"}
    )
    assert "@" not in text.replace('"$@"', "")
    (tmp_path / "install.sh").write_text(text)
    done = subprocess.run(
        ["sh", "install.sh"],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "for Python 9.9 on none (it's $(touch broken))" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["install.sh"]


def test_the_same_content_gives_the_same_archive_and_a_token_is_for_its_owner_alone(
    tmp_path,
):
    texts = {"install.sh": "true\n", "token": "secret\n"}
    first, second = (
        archive.write(tmp_path / name, "folder", texts, {}, secret=True)
        for name in ("a.tar.xz", "b.tar.xz")
    )
    assert first == second
    assert (tmp_path / "a.tar.xz").stat().st_mode & 0o777 == 0o600
    with tarfile.open(tmp_path / "a.tar.xz") as found:
        assert {entry.name: entry.mode for entry in found} == {
            "folder/SHA256SUMS": 0o644,
            "folder/install.sh": 0o644,
            "folder/token": 0o600,
        }


def test_a_damaged_file_is_found_before_anything_is_installed(tmp_path):
    python = "{}.{}".format(*sys.version_info)
    text = archive.installer(
        {**VALUES, "PYTHON": python, "MACHINE": os.uname().machine}
    )
    archive.write(
        tmp_path / "a.tar.xz",
        "folder",
        {"install.sh": text, "requirements.txt": "a\n"},
        {},
        secret=False,
    )
    unpack(tmp_path / "a.tar.xz", tmp_path)
    (tmp_path / "folder" / "requirements.txt").write_text("b\n")
    done = install(tmp_path / "folder", tmp_path / "place", sys.executable)
    assert done.returncode == 1
    assert "the bundle is damaged" in done.stderr
    assert not (tmp_path / "place").exists()


# Modules and programs that an installation uses, as somebody leaves them in a shared folder.
BAIT = ("platform", "venv", "pip", "ensurepip", "runpy", "sys", "fedlearn", "torch")
BAIT_PROGRAMS = ("sha256sum", "sed", "tail", "dirname", "python3", "openssl", "cmp")


def test_nothing_of_the_current_folder_runs(tmp_path):
    """The installation runs as root, and the folder may be anybody's."""
    mark = tmp_path / "ran"
    shared = tmp_path / "shared"
    shared.mkdir()
    for name in BAIT:
        (shared / f"{name}.py").write_text(
            f"open({str(mark)!r}, 'a').write(__name__)\n"
        )
    for name in BAIT_PROGRAMS:
        (shared / name).write_text(f"#!/bin/sh\necho {name} >> {mark}\n")
        (shared / name).chmod(0o755)
    signed(tmp_path, release_key(tmp_path / "release.key"))
    for path, python_path in (
        (os.environ["PATH"], "."),
        (f".:{os.environ['PATH']}", ""),
    ):
        done = subprocess.run(
            ["/bin/sh", "../folder/install.sh", "../place"],
            cwd=shared,
            env={"PATH": path, "PYTHON": sys.executable, "PYTHONPATH": python_path},
            capture_output=True,
            text=True,
        )
        # As far as pip, which this bundle does not have.
        assert "pip failed" in done.stderr
        assert (tmp_path / "place/bin/python").exists()
        assert not mark.exists(), mark.read_text()


def signed(folder: Path, key: ReleaseKey, **texts: str) -> Path:
    """Write a bundle of texts for this Python, unpack it, and return its folder."""
    python = "{}.{}".format(*sys.version_info)
    values = {**VALUES, "PYTHON": python, "MACHINE": os.uname().machine}
    texts = {"install.sh": archive.installer(values), "requirements.txt": "a\n"} | texts
    file = folder / "a.tar.xz"

    def sign(sums: bytes) -> dict[str, bytes]:
        return {"SHA256SUMS.sig": key.sign(sums), "release.pem": key.public_pem}

    archive.write(file, "folder", texts, {}, secret=False, sign=sign)
    shutil.rmtree(folder / "folder", ignore_errors=True)
    unpack(file, folder)
    return folder / "folder"


def unsigned_is(folder: Path) -> None:
    (folder / "SHA256SUMS.sig").unlink()


def without_key(folder: Path) -> None:
    (folder / "release.pem").unlink()


def changed_list(folder: Path) -> None:
    """Replace a file and its checksum, as who changes an archive does."""
    (folder / "requirements.txt").write_text("b\n")
    digest = hashlib.sha256(b"b\n").hexdigest()
    sums = (folder / "SHA256SUMS").read_text().splitlines()
    sums = [
        f"{digest}  requirements.txt" if "requir" in line else line for line in sums
    ]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n")


def others_signature(folder: Path) -> None:
    sums = (folder / "SHA256SUMS").read_bytes()
    other = release_key(folder.parent / "other.key")
    (folder / "SHA256SUMS.sig").write_bytes(other.sign(sums))


def others_key_too(folder: Path) -> None:
    others_signature(folder)
    other = release_key(folder.parent / "other.key")
    (folder / "release.pem").write_bytes(other.public_pem)


def cut_signature(folder: Path) -> None:
    signature = (folder / "SHA256SUMS.sig").read_bytes()
    (folder / "SHA256SUMS.sig").write_bytes(signature[:-1])


def file_beside(folder: Path) -> None:
    (folder / "requirements-torch.txt").write_text("evil\n")


def link_beside(folder: Path) -> None:
    (folder / "wheels").symlink_to("/tmp")


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (unsigned_is, "not signed"),
        (without_key, "not signed"),
        (changed_list, "signature of this bundle is wrong"),
        (others_signature, "signature of this bundle is wrong"),
        (cut_signature, "signature of this bundle is wrong"),
        (others_key_too, "is signed with the key"),
        (file_beside, "files that its list does not name"),
        (link_beside, "files that its list does not name"),
    ],
)
@pytest.mark.parametrize("pin", ["option", "installation"])
def test_nothing_is_installed_of_a_bundle_that_was_changed(
    attack, reason, pin, tmp_path
):
    key = release_key(tmp_path / "release.key")
    folder = signed(tmp_path, key)
    place = tmp_path / "place"
    options: tuple[str, ...] = ("--key", key.fingerprint)
    # A later installation knows the key by itself.
    if pin == "installation":
        options = ()
        place.mkdir()
        (place / "release.pem").write_bytes(key.public_pem)
    before = list(tmp_path.glob("place/*"))
    attack(folder)
    done = install(folder, place, sys.executable, options=options)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert reason in done.stderr
    assert "nothing of it was installed" in done.stderr
    assert list(tmp_path.glob("place/*")) == before


def test_a_new_key_is_taken_where_a_person_names_it(tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    former = release_key(tmp_path / "former.key")
    (place / "release.pem").write_bytes(former.public_pem)
    key = release_key(tmp_path / "release.key")
    folder = signed(tmp_path, key)
    done = install(folder, place, sys.executable)
    assert f"sh install.sh --key {key.fingerprint}" in done.stderr
    done = install(folder, place, sys.executable, options=("--key", key.fingerprint))
    # As far as pip, which this bundle does not have.
    assert "pip failed" in done.stderr
    # Not installed whole, so the former key stays.
    assert (place / "release.pem").read_bytes() == former.public_pem


def test_the_release_key_is_made_once_and_its_owners_alone(tmp_path):
    path = tmp_path / "release.key"
    first, second = release_key(path), release_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert first.public_pem == second.public_pem
    assert first.fingerprint == hashlib.sha256(first.public_pem).hexdigest()
    assert "PRIVATE" not in repr(first)
    for content in (b"", b"x", first.public_pem):
        path.write_bytes(content)
        with pytest.raises(UserError, match="holds no release key"):
            release_key(path)
    with pytest.raises(RecordError, match="name another with --key"):
        release_key(tmp_path / "nowhere" / "release.key")


def test_an_installed_fedlearn_gives_the_wheel_that_it_came_from(registry, tmp_path):
    wheel = own.built(ROOT, tmp_path)
    place = tmp_path / "site"
    commands.pip("install", "--quiet", "--no-deps", "--target", str(place), str(wheel))
    (tmp_path / "again").mkdir()
    code = (
        "import sys; from pathlib import Path; "
        "from fedlearn.bundling.own import own_wheel; own_wheel(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "again")]
    subprocess.run(
        command, check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(place)}
    )
    first, second = (
        zipfile.ZipFile(wheel),
        zipfile.ZipFile(tmp_path / "again" / wheel.name),
    )
    assert sorted(first.namelist()) == sorted(second.namelist())
    assert "fedlearn/bundling/install.sh" in first.namelist()
    for name in first.namelist():
        if not name.endswith("/RECORD"):
            assert first.read(name) == second.read(name), name


@pytest.mark.parametrize("name", ["jp6", "jp7"])
def test_a_board_gets_wheels_of_its_own_python_and_processor(name, registry, tmp_path):
    target = TARGETS[name]
    packages = resolve(target, [*EDGE, "pip"])
    assert {package.partition("==")[0] for package in packages} == {
        "grpcio",
        "numpy",
        "pip",
        "protobuf",
        "typing-extensions",
    }
    download(target, packages, tmp_path)
    wheels = list(tmp_path.iterdir())
    assert len(wheels) == len(packages)
    compact = target.python.replace(".", "")
    for wheel in wheels:
        ours = f"-cp{compact}-" in wheel.name or "-abi3-" in wheel.name
        assert "-none-any" in wheel.name or (ours and target.machine in wheel.name), (
            wheel.name
        )
    assert ("numpy==1." in " ".join(packages)) == (
        name == "jp6"
    )  # as NVIDIA's torch for it wants
    assert lock(wheels).count("--hash=sha256:") == len(wheels)


def test_a_torch_for_boards_without_one_has_no_cuda(registry):
    pinned = resolve(TARGETS["pi"], EDGE)
    packages = resolve(TARGETS["pi"], [TARGETS["pi"].torch], pinned)
    assert any(package.startswith("torch==2.") for package in packages)
    assert not [
        package for package in packages if "nvidia" in package or "cuda" in package
    ]


@pytest.mark.parametrize("python", ["3.10", "3.12"])
def test_an_agent_is_installed_with_the_network_cut(python, registry, tmp_path):
    program = interpreter(python)
    cut = ["unshare", "--user", "--map-root-user", "--net"]
    if subprocess.run([*cut, "true"], capture_output=True).returncode:
        pytest.skip("no network namespaces here")
    assert (
        main(
            [
                "--target",
                "x86",
                "--python",
                python,
                "--out",
                str(tmp_path / "x.tar.xz"),
                "--key",
                str(tmp_path / "release.key"),
                "--coordinator",
                "192.0.2.1:7400",
            ]
        )
        == 0
    )
    assert (tmp_path / "x.tar.xz").stat().st_size < 30e6
    (folder,) = unpack(tmp_path / "x.tar.xz", tmp_path / "unpacked")
    key = release_key(tmp_path / "release.key")
    pin = ("--key", key.fingerprint)
    done = install(folder, tmp_path / "place", program, cut, pin)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "place/release.pem").read_bytes() == key.public_pem
    assert (
        f"{tmp_path}/place/bin/fedlearn agent install --coordinator 192.0.2.1:7400"
        in done.stdout
    )
    helped = subprocess.run(
        [*cut, tmp_path / "place/bin/fedlearn", "agent", "--help"],
        capture_output=True,
        text=True,
    )
    assert helped.returncode == 0
    assert helped.stdout.startswith("usage: fedlearn agent")


def interpreter(python: str) -> str:
    """Return a Python of this version.

    pyenv's stand-ins exist for versions that were not chosen, and fail.
    """
    for found in (
        f"python{python}",
        *sorted(
            map(str, (Path.home() / ".pyenv/versions").glob(f"{python}.*/bin/python3"))
        ),
    ):
        if (path := shutil.which(found)) and not subprocess.run(
            [path, "-c", "import venv"], capture_output=True
        ).returncode:
            return path
    pytest.skip(f"no Python {python} here")


def unpack(file: Path, folder: Path) -> list[Path]:
    with tarfile.open(file) as archive:
        archive.extractall(folder, filter="data")
    return list(folder.iterdir())


def install(
    folder: Path,
    place: Path,
    python: str,
    cut: tuple[str, ...] | list[str] = (),
    options: tuple[str, ...] = (),
) -> subprocess.CompletedProcess:
    command = [*cut, "sh", str(folder / "install.sh"), *options, str(place)]
    return subprocess.run(
        command, env={**os.environ, "PYTHON": python}, capture_output=True, text=True
    )


def test_former_spellings_are_accepted_and_not_shown():
    for options, name, former, value in (
        (serve.parser(), "enroll_port", "--enrol-port", "7401"),
        (bundle.parser(), "enroll", "--enrol", "h.example:7401"),
    ):
        required = [] if options.prog.endswith("serve") else ["--target", "jp6"]
        arguments = options.parse_args([*required, former, value])
        assert str(getattr(arguments, name)) == value
        assert former not in re.findall(r"--[a-z-]+", options.format_help())
