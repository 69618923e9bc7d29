"""The wheel holds what the tree holds: setuptools would leave a forgotten package out in
silence.
"""

from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_of_the_tree_is_in_the_wheel():
    folders = {
        p.parent
        for p in (ROOT / "fedlearn").rglob("__init__.py")
        if not any(q.is_symlink() for q in p.parents)
    }
    inside = {".".join(f.relative_to(ROOT).parts) for f in folders}
    mapped = {
        ".".join(("fedlearn", *p.parent.relative_to(ROOT).parts))
        for name in ("clients", "server", "strategies", "experiments")
        for p in (ROOT / name).rglob("__init__.py")
        # Modules that a benchmark stands in for: found by their own names, and not installed.
        if "standins" not in p.parts
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == inside | mapped


def test_the_links_lead_to_the_folders_beside_them():
    for name in ("clients", "server", "strategies", "experiments"):
        link = ROOT / "fedlearn" / name
        assert link.is_symlink()
        assert link.resolve() == ROOT / name


def test_bundled_data_is_at_most_6_mb():
    files = list((ROOT / "fedlearn" / "data" / "bundled").iterdir())
    assert 1e6 < sum(f.stat().st_size for f in files) <= 6e6


def test_every_registered_name_exists():
    from fedlearn.codec import CODECS
    from fedlearn.data import DATASETS
    from fedlearn.data.partition import KINDS
    from fedlearn.engine import ENGINES
    from fedlearn.models import MODELS
    from fedlearn.names import import_path
    from fedlearn.strategies import STRATEGIES

    for registry in (CODECS, DATASETS, KINDS, ENGINES, MODELS, STRATEGIES):
        for name, named in registry.items():
            assert callable(import_path("name", named.path)), name
            assert 10 < len(named.about) < 110, name
