"""Names and import paths in a config."""

import pytest

from fedlearn.errors import ConfigError
from fedlearn.names import Named, call, find, import_path, nearest
from fedlearn.text.spelling import distance

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


@pytest.mark.parametrize(
    ("word", "choices", "hint"),
    [
        ("unweighted", ["weighted", "sorted"], ""),
        ("weighted", ["unweighted"], ""),
        ("non-overlapping", ["overlapping"], ""),
        ("notuniform", ["uniform"], ""),
        ("unwieghted", ["weighted"], ""),
        ("nuniform", ["uniform"], ""),
        ("max_rounds", ["min_rounds"], ""),
        ("min_rounds", ["max_rounds", "min_round"], " Did you mean 'min_round'?"),
        ("x_test", ["x_train"], ""),
        ("unwieghted", ["weighted", "unweighted"], " Did you mean 'unweighted'?"),
    ],
)
def test_the_opposite_is_never_offered(word, choices, hint):
    assert nearest(word, choices) == hint


@pytest.mark.parametrize(
    ("word", "choices", "hint"),
    [
        ("unet34", ["unet-tiny", "net", "lenet"], " Did you mean 'unet-tiny'?"),
        ("densenet_v2", ["densenet-small", "lenet"], " Did you mean 'densenet-small'?"),
        ("svhn", ["shvn-mini", "svn"], " Did you mean 'svn'?"),
        ("imagenet", ["lenet", "image", "magenta"], " Did you mean 'image'?"),
        ("kmnist", ["mnist"], ""),
        ("vel", ["velocity", "level"], " Did you mean 'velocity'?"),
        ("gru", ["gru-a", "gru-b", "lstm"], " Did you mean 'gru-a' or 'gru-b'?"),
        ("gru", ["gru-a", "gru-b", "gru-c", "gru-d"], ""),
        ("Cnn", ["cnn", "rnn"], " Did you mean 'cnn'?"),
        ("medain", ["median", "mean"], " Did you mean 'median'?"),
        ("Meann", ["Mean", "Means"], " Did you mean 'Mean'?"),
        ("z", ["y"], ""),
        ("", ["y"], ""),
    ],
)
def test_only_what_a_word_most_likely_means_is_offered(word, choices, hint):
    assert nearest(word, choices) == hint


def test_typos_are_letters_too_many_missing_wrong_or_swapped():
    assert [distance("abcd", other) for other in ("abcd", "abd", "abxcd", "acbd")] == [
        *(0, 1, 1, 1)
    ]
    assert distance("ab", "ba") == 1
    assert distance("", "abc") == 3
