"""What is remembered of clients: as it is now, and as the last two checkpoints have it."""

import pytest

from fedlearn.errors import ConfigError, RecordError
from fedlearn.memory.versions import Versions
from tests.jobs import run


@pytest.fixture
def versions(tmp_path):
    made = Versions(tmp_path / "things.sqlite")
    made.recall(None)
    yield made
    made.close()


def contents(versions: Versions, client: int) -> list[bytes]:
    return [content for _, content in versions.rows(client)]


def test_each_checkpoint_keeps_its_own_and_no_third_stays(versions):
    assert versions.newest(7) is None
    for content in (b"a", b"b", b"c", b"d"):
        versions.put(7, b"overwritten before any checkpoint")
        versions.put(7, content)
        versions.sync()
        versions.checkpointed()
    versions.put(7, b"e")
    assert contents(versions, 7) == [b"c", b"d", b"e"]
    assert contents(versions, 8) == []


def test_a_moment_may_end_between_checkpoints(versions):
    versions.put(1, b"before")
    over = versions.turn()
    versions.put(2, b"after")
    assert [(versions.newest(client) or (0,))[0] <= over for client in (1, 2)] == [
        True,
        False,
    ]
    versions.put(1, b"after")
    assert contents(versions, 1) == [b"after"]


def test_what_a_checkpoint_holds_does_not_grow(versions):
    sizes = []
    for client in range(300):
        versions.put(client, bytes(100))
        sizes.append(sum(array.nbytes for array in versions.sync().values()))
        versions.checkpointed()
    assert set(sizes) == {16}


def test_where_nothing_is_remembered_there_is_no_file(versions):
    assert versions.newest(1) is None
    saved = versions.sync()
    versions.checkpointed()
    assert not versions.path.exists()
    versions.put(1, b"later")
    versions.sync()
    assert versions.path.exists()
    assert versions.recall(saved)
    assert versions.newest(1) is None


def test_what_no_checkpoint_named_is_gone_after_a_recall(versions):
    versions.put(1, b"named")
    saved = versions.sync()
    versions.checkpointed()
    versions.put(1, b"lost")
    versions.put(2, b"lost")
    versions.sync()  # the run is killed before the checkpoint's own file is written
    assert versions.recall(saved)
    assert [contents(versions, client) for client in (1, 2)] == [[b"named"], []]
    assert not versions.recall({})  # from before there were versions
    assert contents(versions, 1) == []


def test_a_folder_that_is_none_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match=r"things\.sqlite"):
        Versions(tmp_path / "file" / "things.sqlite").adopt([(1, 1, b"")], (1, 2))


def test_a_path_that_is_too_long_for_sqlite_is_refused_at_once(tmp_path):
    folder = tmp_path
    while len(str(folder)) < 380:
        folder /= "d" * 60
    room = 504 - len(str(folder)) - len("/.sqlite")
    folder.mkdir(parents=True)
    longest = Versions(folder / f"{'n' * room}.sqlite")
    longest.put(3, b"x")
    longest.sync()
    longest.close()
    with pytest.raises(ConfigError, match=r"has 505 bytes, and SQLite takes 504"):
        Versions(folder / f"{'n' * (room + 1)}.sqlite")


def test_a_run_in_such_a_folder_leaves_nothing(tmp_path, capsys):
    folder = tmp_path
    while len(str(folder)) < 480:
        folder /= "d" * 60
    ran = run(folder, "codec.down=eden1")
    assert ran.code == 2
    assert "choose a folder with a shorter path" in capsys.readouterr().err
    assert not folder.exists()
    # Without databases any path will do.
    assert run(folder, "experiment.rounds=1").code == 0
