"""What a Flower app's pyproject says, and every mistake in it as one line."""

import pytest

from fedlearn.apps import project, start
from fedlearn.errors import ConfigError
from fedlearn.records.names import APP_FILE

WHOLE = """
[project]
name = "mine"
version = "2.0"

[tool.flwr.app]
publisher = "me"

[tool.flwr.app.components]
serverapp = "mine.server:app"
clientapp = "mine.client:app"

[tool.flwr.app.config]
lr = 0.1
name = "a b"
verbose = false
params.eta = 1
params.depth = 8
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pyproject.toml").write_text(WHOLE)
    return tmp_path


def test_an_app_is_read_whole(folder):
    app = project.read(folder)
    assert (app.name, app.version, app.publisher) == ("mine", "2.0", "me")
    assert (app.serverapp, app.clientapp) == ("mine.server:app", "mine.client:app")
    assert app.run_config == {
        "lr": 0.1,
        "name": "a b",
        "verbose": False,
        "params.eta": 1,
        "params.depth": 8,
    }
    assert app.nodes == project.DEFAULT_NODES
    assert project.is_project(folder)


def test_the_run_config_is_changed_as_flower_does(folder, tmp_path):
    text = "lr=1e-3 name='c d'  verbose=true params.eta=\"x y\""
    app = project.read(folder, project.changed([text, "params.depth=3"]))
    assert app.run_config == {
        "lr": 0.001,
        "name": "c d",
        "verbose": True,
        "params.eta": "x y",
        "params.depth": 3,
    }
    file = tmp_path / "changes.toml"
    file.write_text("lr = 2\n[params]\neta = 5\n")
    assert project.changed([str(file)]) == {"lr": 2, "params.eta": 5}


@pytest.mark.parametrize(
    ("federations", "nodes", "unused"),
    [
        ('default = "a"\n[tool.flwr.federations.a]\noptions.num-supernodes = 7', 7, ()),
        ("[tool.flwr.federations.a]\noptions.num-supernodes = 6", 6, ()),
        ('default = "elsewhere"', 2, ()),
        (
            "[tool.flwr.federations.a]\noptions.num-supernodes = 2\n"
            "options.backend.client-resources.num-cpus = 2",
            2,
            ("backend.client-resources",),
        ),
    ],
)
def test_the_nodes_are_the_default_federations(folder, federations, nodes, unused):
    text = f"{WHOLE}\n[tool.flwr.federations]\n{federations}\n"
    (folder / "pyproject.toml").write_text(text)
    app = project.read(folder)
    assert (app.nodes, app.unused) == (nodes, unused)
    assert project.read(folder, None, 3).nodes == 3


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("tool.flwr", "tool.other", r"has no \[tool.flwr.app\]: it is no Flower app"),
        ("serverapp =", "severapp =", "has no 'serverapp', but severapp, clientapp"),
        ("mine.client:app", "mine.client", "is not module:attribute"),
        ("lr = 0.1", "lr = [1, 2]", "'lr' is a list"),
        ("lr = 0.1", "lr = ", "is no TOML"),
        ("lr = 0.1", "lr = 1979-05-27", "'lr' is a date"),
        ('"mine.client:app"', "3", "clientapp = '3' is not module:attribute"),
        ('"mine.client:app"', '["a:b"]', "is not module:attribute"),
        ("mine.client:app", ".client:app", "is not module:attribute"),
        ("[tool.flwr.app.components]", "[other]", "components] is missing"),
        ("lr = 0.1", "lr." + "a." * 3000 + "b = 1", "nest too deep|is no TOML"),
        ("lr = 0.1", "x = " + "[" * 3000 + "]" * 3000, "is no TOML"),
        ("[project]", "# " + "x" * 4_000_000 + "\n[project]", "more than 4,000,000"),
        (
            "[project]",
            "[tool.flwr.federations.a]\noptions = 3\n[project]",
            "options of the federation 'a' is no table",
        ),
        (
            "[project]",
            "[tool.flwr.federations.a.options]\nnum-supernodes = true\n[project]",
            "num-supernodes = True is no whole number from 1",
        ),
        (
            "[tool.flwr.app.config]",
            "[tool.flwr.app.conf]\n[[tool.flwr.app.config]]",
            "table",
        ),
    ],
)
def test_a_mistake_is_one_line(folder, before, after, message):
    (folder / "pyproject.toml").write_text(WHOLE.replace(before, after))
    with pytest.raises(ConfigError, match=message) as raised:
        project.read(folder)
    assert "\n" not in str(raised.value)
    assert "pyproject.toml" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lrr=1", "'lrr' is not in .* Did you mean 'lr'"),
        ("lr", "'lr' is not key=value"),
        ("lr=0.1 oops", "'oops' is not key=value"),
        ("name=text", "a text needs quotes: 'name=\"text\"'"),
        ("no-such.toml", "No such file"),
    ],
)
def test_a_mistake_in_the_run_config_is_one_line(folder, text, message):
    with pytest.raises(ConfigError, match=message):
        project.read(folder, project.changed([text]))


def test_odd_values_beside_an_app_do_no_harm(folder):
    text = WHOLE.replace('name = "mine"', "name = 3").replace('"2.0"', "[1]")
    federations = "[tool.flwr.federations]\ndefault = ['a']\na = 3\n"
    (folder / "pyproject.toml").write_text(text + federations)
    app = project.read(folder)
    assert (app.name, app.nodes, app.by_default) == ("3", 2, True)
    for name in ("ünï", "a" * 200):
        other = folder / name
        other.mkdir()
        (other / "pyproject.toml").write_text(WHOLE.replace('"mine"', f'"{name}"'))
        assert project.read(other).name == name
        assert 0 < len(start.folder_name(project.read(other))) <= 60


def test_a_pyproject_that_cannot_be_read_is_told(tmp_path):
    path = tmp_path / "pyproject.toml"
    path.symlink_to(path)
    with pytest.raises(ConfigError, match=r"has no pyproject.toml"):
        project.read(tmp_path)
    path.unlink()
    path.write_bytes(b"\xff\xfe[project]")
    with pytest.raises(ConfigError, match="is no TOML"):
        project.read(tmp_path)


def test_a_federation_is_changed_as_flower_does(folder):
    texts = ["num-supernodes=4 client-resources-num-cpus=2", "verbose=true"]
    changes = project.federation(texts)
    app = project.read(folder, None, None, changes)
    assert (app.nodes, app.by_default) == (4, False)
    assert app.unused == ("client-resources-num-cpus", "verbose")
    begun = start.of_options(folder, federation=changes)
    assert begun.project.nodes == 4
    for text, message in (
        ("num-supernode=3", "Did you mean 'num-supernodes'"),
        ("options.num-supernodes=3", "is no key of a federation"),
        ("num-supernodes=0", "num-supernodes = 0 is no whole number from 1"),
        ("num-supernodes='a'", "num-supernodes = 'a' is no whole number"),
        ("num-supernodes", "'num-supernodes' is not key=value"),
    ):
        with pytest.raises(ConfigError, match=message):
            project.federation([text])


def test_the_default_number_of_nodes_is_flowers():
    from flwr.supercore.constant import DEFAULT_SIMULATION_CONFIG

    assert project.DEFAULT_NODES == DEFAULT_SIMULATION_CONFIG.num_supernodes


def test_what_is_no_app_is_told(tmp_path):
    with pytest.raises(ConfigError, match="there is no folder"):
        project.read(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"has no pyproject.toml"):
        project.read(tmp_path)
    assert not project.is_project(tmp_path)


def test_node_configs_are_for_all_and_for_one(tmp_path):
    path = tmp_path / "nodes.toml"
    path.write_text('site = "x"\n[1]\nsite = "y"\ndata = "d1"\n')
    assert start.node_configs(path, 2) == {
        0: {"site": "x"},
        1: {"site": "y", "data": "d1"},
    }
    with pytest.raises(ConfigError, match=r"\[1\] is no partition-id from 0 to 0"):
        start.node_configs(path, 1)


def test_a_run_goes_on_with_what_it_began(folder, tmp_path):
    import json

    begun = start.of_options(folder, changes={"lr": 3}, nodes=5, seed=4, workers=2)
    run = tmp_path / "run"
    run.mkdir()
    (run / APP_FILE).write_text(json.dumps(begun.plain()))
    assert start.of_folder(run, 2).plain() == begun.plain()
    start.check_same(run, begun)
    other = start.of_options(folder, changes={"lr": 4}, nodes=5, seed=4)
    with pytest.raises(ConfigError, match="another run-config"):
        start.check_same(run, other)
    with pytest.raises(ConfigError, match="already holds a run"):
        start.check_folder(run, resume=False)
    start.check_folder(run, resume=True)
