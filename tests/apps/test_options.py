"""What ``--set`` may say of an app's run, and every mistake in it as one line."""

import pytest

from fedlearn.apps.options import RunOptions, read
from fedlearn.errors import ConfigError


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["codec.upp=q8"], "Did you mean 'codec.up'"),
        (["lr=0.1"], "the app's own keys go into --run-config"),
        (["codec.up=ef+q8"], "error feedback needs a residual"),
        (["codec.up=q99"], "q99"),
        (["codec.up"], "as --set codec.up=eden1"),
        (["codec.first=q8"], "needs codec.down"),
        (["engine.client_timeout_s=-1"], "is no number of seconds from 0"),
        (["engine.client_timeout_s=inf"], "is no number of seconds from 0"),
        (["engine.client_timeout_s=nan"], "is no number of seconds from 0"),
        (["engine.client_timeout=1"], "Did you mean 'engine.client_timeout_s'"),
    ],
)
def test_a_mistake_is_one_line(texts, message):
    with pytest.raises(ConfigError) as raised:
        read(texts)
    assert message in str(raised.value)


def test_options_are_read():
    texts = ["codec.up=eden1", "codec.down='q8'", "engine.client_timeout_s=2.5"]
    assert read(texts) == RunOptions("eden1", "q8", "", 2.5)
    assert read(["codec.up=auto"]) == RunOptions("auto")
    assert read(()) == RunOptions()
