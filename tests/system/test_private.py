"""What runs and agents write is their owner's alone, however open the umask."""

import os
import stat
from pathlib import Path

import pytest

import fedlearn as fl
from fedlearn.commands import pki, serve, simulate, tune
from fedlearn.reporting.html import write_document
from fedlearn.server import identity
from fedlearn.system import files

# With error feedback and a copy of each client's model, so that all that is remembered is written.
CONFIG = """\
[experiment]
name = "tiny"
rounds = 2

[data]
name = "digits"

[data.partition]
kind = "iid"
clients = 2

[model]
name = "logistic"

[strategy]
name = "fedavg"
fraction_train = 1.0

[codec]
up = "ef+q8"
down = "q8"
downlink = "{downlink}"

[engine]
kind = "{engine}"
workers = 2
"""

# Certificates are for everyone, and lie in a folder that is not.
CERTIFICATES = ("ca.pem", "server.pem")


@pytest.fixture(autouse=True)
def _open_umask(tmp_path, monkeypatch):
    """Let the umask take nothing away, in an empty current folder."""
    monkeypatch.chdir(tmp_path)
    before = os.umask(0)
    yield
    os.umask(before)


def config(downlink: str = "shadow", engine: str = "pool") -> str:
    Path("tiny.toml").write_text(CONFIG.format(downlink=downlink, engine=engine))
    return "tiny.toml"


def open_to_others(folder: Path) -> list[str]:
    """Return the folders and files of a tree that others than the owner may open."""
    paths = [folder, *folder.rglob("*")]
    assert len(paths) > 3
    return [
        f"{path} {mode:o}"
        for path in paths
        if (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077
        and path.name not in CERTIFICATES
    ]


def test_a_simulation(tmp_path):
    assert simulate.main([config(), "--quiet", "--out", "runs/a"]) == 0
    fl.run(config(downlink="cast", engine="serial"), out="b", quiet=True)
    for name in ("runs/a", "b"):
        assert not open_to_others(tmp_path / name)


def test_a_coordinator_and_its_agents(tmp_path):
    assert serve.main([config(), "--quiet", "--out", "a", "--local-agents", "2"]) == 0
    assert (tmp_path / "a/agents/1/identity.json").exists()
    assert not open_to_others(tmp_path / "a")


def test_a_search_and_an_authority(tmp_path):
    search = [
        "--grid",
        "--search",
        "train.lr=choice:0.1,0.2",
        "--rounds",
        "1",
        "--quiet",
    ]
    assert tune.main([config(engine="serial"), *search, "--out", "a"]) == 0
    assert pki.main(["init", "--pki", "b"]) == 0
    for name in ("a", "b"):
        assert not open_to_others(tmp_path / name)


def test_a_folder_that_was_there_keeps_its_mode_and_its_files(tmp_path):
    """Who shares a folder on purpose shares its names, and may share the files afterwards."""
    shared = tmp_path / "a"
    shared.mkdir(0o750)
    assert simulate.main([config(), "--quiet", "--out", "a"]) == 0
    assert stat.S_IMODE(shared.stat().st_mode) == 0o750
    # The page is for others too.
    others = [Path(line.split()[0]).name for line in open_to_others(shared)]
    assert sorted(others) == ["a", "report.html"]
    # A run of an earlier version, which others may read, is resumed as it is.
    for path in (shared, *shared.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    longer = ["--resume", "--out", "a", "--quiet", "--set", "experiment.rounds=3"]
    assert simulate.main(longer) == 0
    assert stat.S_IMODE((shared / "metrics.jsonl").stat().st_mode) in (0o600, 0o644)
    assert len((shared / "metrics.jsonl").read_bytes().splitlines()) == 4


def test_a_page_is_for_those_whom_its_folder_lets_in(tmp_path):
    for mode, page in ((0o700, 0o600), (0o750, 0o640), (0o755, 0o644), (0o777, 0o666)):
        folder = tmp_path / f"{mode:o}"
        folder.mkdir(mode)
        path = write_document(folder / "page.html", "a page")
        assert stat.S_IMODE(path.stat().st_mode) == page


def test_a_file_that_is_opened_keeps_its_mode_and_a_new_one_is_private(tmp_path):
    before = tmp_path / "before"
    before.write_text("a")
    before.chmod(0o664)
    for name in ("before", "new"):
        with open(tmp_path / name, "a", opener=files.private) as file:
            file.write("b")
    assert before.read_text() == "ab"
    assert stat.S_IMODE(before.stat().st_mode) == 0o664
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes for others")
def test_root_gives_what_it_writes_to_the_owner_of_the_folder(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 12345, 23456)
    outside = tmp_path / "roots"
    outside.write_text("root's own")
    (theirs / "link").symlink_to(outside)
    files.replace(theirs / "whole", b"a")
    files.make_folder(theirs / "folder")
    identity.make(theirs / "pki")
    for name in ("opened", "link"):
        with open(theirs / name, "a", opener=files.private):
            pass
    for name in ("whole", "opened", "folder", "pki", "pki/ca.key"):
        status = (theirs / name).stat()
        assert (status.st_uid, status.st_gid) == (12345, 23456)
    # Through a link that the folder's owner laid, root gives nothing away.
    assert outside.stat().st_uid == 0
