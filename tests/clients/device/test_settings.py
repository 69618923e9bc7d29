"""The agent's settings file: what it may say, and what is wrong with one that says something
else.
"""

from dataclasses import fields
from pathlib import Path

import pytest

from fedlearn.clients.device.rules import Rules, Span
from fedlearn.clients.device.settings import _KEYS, TEMPLATE, SettingsFile, read
from fedlearn.commands.agent import parser
from fedlearn.errors import ConfigError


def parsed(folder: Path, text: str) -> SettingsFile:
    path = folder / "agent.ini"
    path.write_text(text)
    return read(path)


def test_everything_that_can_be_said(tmp_path):
    found = parsed(
        tmp_path,
        """
        ; the whole file
        [agent]
        coordinator = 10.0.0.5:9000
        client = 3
        state = state   # beside this file
        data = own.npz
        allow = my_pkg, other.models
        epochs = 5
        steps = 100
        megabytes = 64
        insecure = yes
        [rules]
        hot_c = 88
        cool_c = 75.5
        pause_s = 60
        battery_percent = 30
        least_watts = 10
        memory_mb = 700
        memory_low_mb = 32
        metered = no
        metered_links = usb*, wlan1
        hours = 22:00-6:00, 12:00 - 24:00
        """.replace("\n        ", "\n"),
    )
    assert found.agent == {
        "coordinator": "10.0.0.5:9000",
        "client": 3,
        "state": tmp_path / "state",
        "data": str(tmp_path / "own.npz"),
        "allow": ["my_pkg", "other.models"],
        "epochs": 5,
        "steps": 100,
        "megabytes": 64,
        "insecure": True,
    }
    hours = (Span(22 * 60, 6 * 60), Span(12 * 60, 0))
    assert found.rules == Rules(
        88, 75.5, 60, 30, 10, 700, 32, False, ("usb*", "wlan1"), hours
    )


def test_keys_of_apps_are_the_owners_and_have_the_types_of_their_values(tmp_path):
    text = """\
[agent]
apps = my_app, other.client:app
app_s = 1.5
[node_config]
data-path = /srv/my data
quoted = "7"
number = 7
rate = 1e-3
fast = true
name = nan
"""
    settings = parsed(tmp_path, text)
    assert settings.agent == {"apps": ["my_app", "other.client:app"], "app_s": 1.5}
    assert settings.node_config == {
        "data-path": "/srv/my data",
        "quoted": "7",
        "number": 7,
        "rate": 0.001,
        "fast": True,
        "name": "nan",
    }
    with pytest.raises(ConfigError, match="is not a text whose quotes are closed"):
        parsed(tmp_path, "[node_config]\npath = 'a\n")


def test_what_is_not_said_stays_as_it_is(tmp_path):
    assert parsed(tmp_path, "") == SettingsFile({}, Rules())
    assert parsed(
        tmp_path, "[agent]\ndata = my_pkg:load\nstate = /var/lib/fedlearn\n"
    ).agent == {
        "data": "my_pkg:load",
        "state": Path("/var/lib/fedlearn"),
    }


def test_the_template_says_nothing_and_names_every_key_with_its_default(tmp_path):
    assert parsed(tmp_path, TEMPLATE) == SettingsFile({}, Rules())
    on = parsed(
        tmp_path,
        "\n".join(
            line.removeprefix("# ")
            for line in TEMPLATE.splitlines()
            if " = " in line or line.startswith(("[", "# ["))
        ),
    )
    assert (
        set(on.agent)
        == set(_KEYS["agent"])
        == {action.dest for action in parser()._actions}
        - {"help", "settings", "end_with_input"}
    )
    assert on.agent["app_s"] == parser().get_default("app_s")
    assert on.node_config == {"data-path": "/srv/my data"}
    assert on.releases is not None and set(on.releases) == set(_KEYS["releases"])
    shown = {
        "hot_c",
        "cool_c",
        "metered_links",
        "hours",
    }  # examples: their default is none
    assert {f.name for f in fields(Rules)} == set(_KEYS["rules"])
    assert [
        f.name
        for f in fields(Rules)
        if f.name not in shown and getattr(on.rules, f.name) != f.default
    ] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[rule]\n",
            r"unknown section \[rule\]\. Did you mean 'rules'\? Known: agent, releases, rules",
        ),
        ("[rules]\nhot = 80\n", r"\[rules\] has no key 'hot'\. Did you mean 'hot_c'\?"),
        ("[rules]\nHot_C = 80\n", r"\[rules\] has no key 'Hot_C'\."),
        (
            "[rules]\nhot_c = 80 C\n",
            r"\[rules\] hot_c = '80 C' is not a number of °C from 30 to 120, without its unit",
        ),
        ("[rules]\nhot_c = nan\n", "hot_c = 'nan' is not a number"),
        (
            "[rules]\nhot_c = 800\n",
            "hot_c = '800' is not a number of °C from 30 to 120",
        ),
        (
            "[rules]\nbattery_percent = -1\n",
            "battery_percent = '-1' is not a number of percent from 0 to 100",
        ),
        ("[rules]\nmetered = maybe\n", "metered = 'maybe' is not yes or no"),
        (
            "[rules]\nhours = 9-17\n",
            "hours = '9-17' is not a list of times such as 22:00-06:00",
        ),
        ("[rules]\nhours = 9:00-24:30\n", "is not a list of times"),
        ("[rules]\nhours = 9:00-09:00\n", "is not a list of times"),
        ("[rules]\nhot_c = 70\ncool_c = 70\n", "cool_c = 70 is not below hot_c = 70"),
        ("[rules]\nmemory_mb = 10\n", "memory_low_mb = 64 is above memory_mb = 10"),
        (
            "[agent]\nclient = x\n",
            r"\[agent\] client = 'x' is not a whole number from 0",
        ),
        ("[agent]\nstate =\n", "state = '' is not a text"),
        ("[rules]\nhot_c = 70\nhot_c = 71\n", r"line 3: \[rules\] has hot_c twice"),
        ("[rules]\n[rules]\n", r"line 2: \[rules\] is there twice"),
        ("hot_c = 70\n", "line 1: stands in no section"),
        ("[rules]\nhot_c\n", "line 2: is not of the form 'key = value'"),
        ("[DEFAULT]\nhot_c = 70\n", r"unknown section \[DEFAULT\]"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, text, words):
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/agent\.ini.*{words}") as error:
        parsed(tmp_path, text)
    assert error.value.exit_code == 2


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(
        ConfigError, match=r"cannot read the settings '.*none\.ini': No such file"
    ):
        read(tmp_path / "none.ini")
    (tmp_path / "agent.ini").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is no text in UTF-8"):
        read(tmp_path / "agent.ini")


def test_a_section_of_releases_has_its_keys_beside_the_file(tmp_path):
    text = """
    [releases]
    accept = watch-lstm, traffic
    keys = release.pem, /etc/other.pem
    watch_s = 30
    disagreement = 0.3
    probe = probe.npz
    probe_accuracy = 0.8
    serve = --port 8000 --name "my model"
    """
    said = parsed(tmp_path, text).releases
    assert said == {
        "accept": ("watch-lstm", "traffic"),
        "keys": (tmp_path / "release.pem", Path("/etc/other.pem")),
        "watch_s": 30.0,
        "disagreement": 0.3,
        "probe": tmp_path / "probe.npz",
        "probe_accuracy": 0.8,
        "serve": ("--port", "8000", "--name", "my model"),
    }
    assert parsed(tmp_path, "[agent]\n").releases is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[releases]\n", "[releases] needs accept"),
        ("[releases]\naccept = m\n", "[releases] needs keys"),
        ("[releases]\naccept = m\nkeys =\n", "[releases] needs keys"),
        ("[releases]\nserve = 'x\n", "whose quotes are closed"),
        ("[releases]\nshadow = 2\n", "a share from 0 to 1, such as 0.05"),
        (
            "[releases]\naccept = m\nkeys = k\nprobe = p.npz\n",
            "needs both of probe and probe_accuracy",
        ),
        ("[releases]\nwatch_s = 0\n", "a number of seconds from 1"),
        ("[releases]\naccepts = m\n", "has no key 'accepts'. Did you mean 'accept'"),
    ],
)
def test_a_wrong_section_of_releases_is_named(tmp_path, text, words):
    with pytest.raises(ConfigError) as caught:
        parsed(tmp_path, text)
    assert words in str(caught.value)
