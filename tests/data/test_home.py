"""A user without a home folder, as in many containers, is told where data sets could be."""

import pytest

from fedlearn.commands.data import main
from fedlearn.data.stored import cache_folder
from fedlearn.errors import DataError
from tests.jobs import run


@pytest.fixture
def homeless(monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME", "FEDLEARN_DATA"):
        monkeypatch.delenv(name, raising=False)
    # As for a user's number that /etc/passwd does not have.
    monkeypatch.setattr("pwd.getpwuid", _nobody)


def _nobody(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")


def test_the_folder_to_set_is_named(homeless, capsys):
    with pytest.raises(DataError, match="set FEDLEARN_DATA to another folder"):
        cache_folder()
    for words in (["list"], ["path"], ["fetch", "watch"]):
        assert main(words) == 2
        assert "FEDLEARN_DATA" in capsys.readouterr().err


def test_what_comes_with_fedlearn_needs_no_home(homeless, tmp_path, capsys):
    assert run(tmp_path / "run", "experiment.rounds=1").code == 0
    assert run(tmp_path / "other", "data.name=fashion").code == 2
    assert "FEDLEARN_DATA" in capsys.readouterr().err
