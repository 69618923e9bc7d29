"""Which files are an app's own, and what has changed of them."""

from fedlearn.apps import sources


def test_the_files_are_the_apps_own(tmp_path):
    for name in ("app/b.py", "app/a.py", ".git/x.py", "env/lib/y.py", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "env/pyvenv.cfg").touch()
    (tmp_path / "app/circle").symlink_to(tmp_path)
    before = sources.digests(tmp_path)
    assert list(before) == ["app/a.py", "app/b.py"]
    assert sources.changed(before, before) == []
    (tmp_path / "app/a.py").write_text("other")
    (tmp_path / "app/b.py").unlink()
    (tmp_path / "c.py").touch()
    now = sources.digests(tmp_path)
    assert sources.changed(before, now) == ["app/a.py", "app/b.py", "c.py"]
