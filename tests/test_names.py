"""Names and import paths in a config."""

import pytest

from fedlearn.errors import ConfigError
from fedlearn.names import Named, call, find, import_path

REGISTRY = {"sqrt": Named("math:sqrt", "square root")}


def function(clients, alpha=1.0, *, seed=0):
    return clients, alpha, seed


def test_registered_names_and_import_paths():
    assert find("thing", "sqrt", REGISTRY)(4) == 2
    assert find("thing", "os.path:join", REGISTRY)("a", "b") == "a/b"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sqtr", "unknown thing 'sqtr'. Did you mean 'sqrt'?"),
        ("no_such_module:x", "cannot import 'no_such_module'"),
        ("math:sqtr", "'math' has no 'sqtr'. Did you mean 'sqrt'?"),
    ],
)
def test_unknown_names_say_what_is_near(name, message):
    with pytest.raises(ConfigError) as caught:
        find("thing", name, REGISTRY)
    assert message in str(caught.value)


def test_a_module_that_fails_on_import_is_the_users_mistake(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ConfigError, match="importing 'broken_module' raised ZeroDivisionError"
    ):
        import_path("thing", "broken_module:x")


def test_options_are_checked_against_the_signature():
    assert call("it", function, {"alpha": 2}, {"clients": 3, "unused": 1}) == (3, 2, 0)
    with pytest.raises(
        ConfigError, match=r"it takes no option 'alhpa'\. Did you mean 'alpha'\?"
    ):
        call("it", function, {"alhpa": 2}, {"clients": 3})
    with pytest.raises(ConfigError, match="it needs the option 'clients'"):
        call("it", function, {})
