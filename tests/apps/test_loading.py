"""Components that are none, or whose module does odd things: one line each."""

import sys

import pytest

from fedlearn.apps import loading
from fedlearn.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "reference", "message"),
    [
        (
            "",
            "no_such:app",
            "importing 'no_such' raised ModuleNotFoundError: .* install",
        ),
        ("", "mod:app", "'mod' has no 'app'"),
        ("app = 3", "mod:app", "is a int, not a flwr.clientapp.ClientApp"),
        ("app = 3", "mod:app.inner", "'mod' has no 'app.inner'"),
        ("import other", "mod:app", "raised ImportError: .*partially initialized"),
        ("raise SystemExit(3)", "mod:app", "raised SystemExit: 3"),
        ("class E(BaseException): pass\nraise E('x')", "mod:app", "raised E: x"),
        ("def f(:", "mod:app", "raised SyntaxError"),
        (
            "def __getattr__(name): raise ValueError(name)",
            "mod:app",
            "reading 'app' raised ValueError: app",
        ),
        ("app = 'ü' * 9", "mod:ü", "'mod' has no 'ü'"),
    ],
)
def test_what_is_no_component_is_one_line(text, reference, message, tmp_path):
    (tmp_path / "mod.py").write_text(text, encoding="utf-8")
    (tmp_path / "other.py").write_text("from mod import app")
    with loading.on_path(tmp_path), pytest.raises(ConfigError, match=message) as raised:
        loading.client_app(reference)
    assert "\n" not in str(raised.value)
    assert reference in str(raised.value)


def test_the_path_is_as_before_whatever_an_app_does_to_it(tmp_path):
    path = list(sys.path)
    with loading.on_path(tmp_path):
        sys.path = [entry for entry in sys.path if entry != str(tmp_path)]
    assert sys.path == path
