"""A run, a package and a registry stay what they are: no command writes into one."""

import shutil
from pathlib import Path

import pytest

import fedlearn as fl
from fedlearn.commands import compress, export, package, registry, release, sign
from fedlearn.commands.places import check_outside
from fedlearn.errors import UserError
from fedlearn.release.registry import Registry
from tests.commands.test_full_disk import CONFIG
from tests.package import small


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return a folder with a run, a package and a registry, named after their kinds."""
    place = tmp_path_factory.mktemp("places")
    fl.run(CONFIG, out=place / "run", quiet=True)
    small.written(place / "package")
    with Registry(place / "registry", create=True) as opened:
        opened.add(small.written(place / "other"))
    return place


COMMANDS = [
    (export, "{place}/run --out {inside}/new"),
    (package, "{place}/run --out {inside}/new"),
    (compress, "{place}/run --prune 0.5 --rounds 0 --out {inside}/new"),
    (release, "{place}/run --registry {inside}/new"),
    (release, "{place}/package --registry {inside}/new"),
    (release, "{place}/run --registry {place}/registry --out {inside}/new"),
    (release, "fetch small --registry {place}/registry --out {inside}/new"),
    (sign, "--new-key {inside}/new"),
    (registry, "token ci --token-file {inside}/new"),
]


@pytest.mark.parametrize(("command", "words"), COMMANDS)
@pytest.mark.parametrize("kind", ["run", "package", "registry/objects"])
def test_nothing_is_written_into_what_is_whole(command, words, kind, folders, capsys):
    before = small.sha256(folders)
    texts = words.format(place=folders, inside=folders / kind).split()
    assert command.main(texts) == 2
    error = capsys.readouterr().err
    assert f"'{folders / kind.split('/')[0]}', which stays as it is" in error
    assert error.count("\n") == 1
    assert small.sha256(folders) == before


def test_a_key_is_not_made_in_a_package_itself(folders, capsys):
    assert sign.main(["--new-key", str(folders / "package")]) == 2
    assert "would add to a package" in capsys.readouterr().err


def test_a_link_leads_to_where_it_leads(folders, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(folders / "run")
    with pytest.raises(UserError, match="would add to a run folder"):
        check_outside(tmp_path / "link" / "deep" / "new", "--out")
    monkeypatch.chdir(folders / "package")
    with pytest.raises(UserError, match="would add to a package"):
        check_outside(Path("new"), "--out")


def test_beside_them_there_is_room(folders, tmp_path):
    check_outside(folders / "run-onnx", "--out")
    # A project's own config makes no run of its folder, nor weights a package.
    for name in ("config.toml", "model.safetensors"):
        shutil.copy(folders / "run" / name, tmp_path)
    check_outside(tmp_path / "new", "--out")
    check_outside(tmp_path, "--new-key", fills=True)
