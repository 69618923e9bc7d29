"""The service: its unit passes systemd's own checks, and `fedlearn agent install` writes what
belongs to it, or says why not.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fedlearn.clients.device import notify, settings, unit
from fedlearn.commands import install
from fedlearn.errors import UserError
from fedlearn.server import identity

WORST = 2.5
"""The score of `systemd-analyze security` that the unit may have at most; 0 is no exposure, 10
all.
"""

analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here"
)


def systemd():
    return install._systemd()


@pytest.fixture
def written(tmp_path):
    """Return a function that writes the unit as a file, as this machine's systemd would get it."""

    def write(**options):
        path = tmp_path / unit.NAME
        path.write_text(unit.unit(Path(sys.executable), systemd=systemd(), **options))
        return path

    return write


@analyze
@pytest.mark.parametrize("home", [False, True])
def test_systemd_accepts_the_unit(written, home):
    done = subprocess.run(
        ["systemd-analyze", "verify", written(home=home)],
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode,
        done.stdout,
        [line for line in done.stderr.splitlines() if unit.NAME in line],
    ) == (0, "", [])


@analyze
@pytest.mark.parametrize("home", [False, True])
def test_the_unit_is_not_exposed(written, home):
    command = [
        "systemd-analyze",
        "security",
        "--offline=yes",
        "--no-pager",
        f"--threshold={round(10 * WORST)}",
        written(home=home),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    score = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert score, done.stderr
    assert float(score[1]) <= WORST
    assert done.returncode == 0


def keys(text):
    return dict(
        line.split("=", 1)
        for line in text.splitlines()
        if "=" in line and not line.startswith("#")
    )


def test_the_unit_leaves_the_gpu_reachable():
    """Each of these hides device files or forbids what torch and CUDA do."""
    told = keys(unit.unit(Path(sys.executable)))
    assert not {
        "PrivateDevices",
        "DeviceAllow",
        "DevicePolicy",
        "ProtectClock",
        "MemoryDenyWriteExecute",
        "PrivateUsers",
    } & set(told)
    assert (
        "SupplementaryGroups" not in told
    )  # a group that is missing would keep the service from starting
    assert {"m fedlearn video", "m fedlearn render"} <= set(
        unit.sysusers().splitlines()
    )


def test_the_unit_is_watched_and_comes_back():
    told = keys(unit.unit(Path("/opt/x/bin/python")))
    wanted = {
        "Type": "notify",
        "WatchdogSec": "60",
        "Restart": "always",
        "OOMPolicy": "continue",
        "StateDirectory": "fedlearn",
    }
    assert wanted.items() <= told.items()
    assert told["LoadCredential"] == f"settings:{settings.PLACE}"


def test_the_pause_grows_where_systemd_can():
    assert "RestartSteps" in keys(unit.unit(Path(sys.executable), systemd=255))
    assert keys(unit.unit(Path(sys.executable), systemd=249))["RestartSec"] == "30"
    assert "RestartSteps" not in keys(unit.unit(Path(sys.executable), systemd=249))


def test_odd_paths_stay_one_word():
    told = keys(unit.unit(Path("/opt/a b/50%/$x/python")))
    assert told["ExecStart"].startswith(
        '"/opt/a b/50%%/$$x/python" -I -u -B -m fedlearn.agent '
    )


@pytest.mark.parametrize(
    "path", ['/opt/"/python', "/opt/a\nExecStartPre=/bin/sh", "python"]
)
def test_paths_that_a_unit_cannot_name(path):
    with pytest.raises(UserError, match="cannot stand in a systemd unit"):
        unit.unit(Path(path))


@pytest.mark.parametrize("user", ["root", "Me", "a b", "x\ny", "", "-x"])
def test_users_that_cannot_be(user):
    with pytest.raises(UserError, match="--user"):
        unit.sysusers(user)


@pytest.mark.skipif(
    shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not here"
)
def test_systemd_reads_the_user(tmp_path):
    (tmp_path / "fedlearn.conf").write_text(unit.sysusers())
    (tmp_path / "etc").mkdir()
    subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", tmp_path / "fedlearn.conf"],
        check=True,
        capture_output=True,
    )
    groups = dict(
        line.split(":x:")[:2]
        for line in (tmp_path / "etc/group").read_text().splitlines()
    )
    assert groups["video"].endswith(":fedlearn")
    assert groups["render"].endswith(":fedlearn")
    assert "fedlearn:x:" in (tmp_path / "etc/passwd").read_text()


# Settings


def test_values_go_where_the_template_explains_them(tmp_path):
    text = unit.with_values(
        settings.TEMPLATE, {"coordinator": "h:1", "data": "/srv/x.npz"}
    )
    path = tmp_path / "agent.ini"
    path.write_text(text)
    assert dict(settings.read(path).agent) == {
        "coordinator": "h:1",
        "data": "/srv/x.npz",
    }
    assert len(text.splitlines()) == len(settings.TEMPLATE.splitlines())
    assert unit.with_values(text, {"coordinator": "h:1", "data": "/srv/x.npz"}) == text


def test_values_replace_and_leave_the_rest():
    before = (
        "[rules]\ncoordinator = not this\n[agent]\n\ncoordinator=a:1 # old\n"
        "[other]\ndata = x\n"
    )
    after = unit.with_values(before, {"coordinator": "b:2", "data": "auto"})
    assert after == (
        "[rules]\ncoordinator = not this\n[agent]\ndata = auto\n\n"
        "coordinator = b:2\n[other]\ndata = x\n"
    )
    assert (
        unit.with_values("[rules]\n", {"data": "auto"})
        == "[agent]\ndata = auto\n[rules]\n"
    )


@pytest.mark.parametrize("value", ["a\n[rules]", "a # b", " a"])
def test_values_that_a_file_cannot_hold(value):
    with pytest.raises(UserError, match="cannot stand in a settings file"):
        unit.with_values("", {"data": value})


# The command


@pytest.fixture
def called(monkeypatch):
    """Be on a machine with systemd, whose commands are written down."""
    commands = []
    monkeypatch.setattr(
        install, "_call", lambda *command, fix="": commands.append(command)
    )
    monkeypatch.setattr(install, "_check_system", lambda given: None)
    monkeypatch.setattr(install, "_check_readable", lambda paths, user: None)
    return commands


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Have all absolute paths below a folder: what is written, is written there."""
    root = tmp_path / "system"
    root.mkdir()
    write, move = install._write, install._move
    monkeypatch.setattr(
        install, "_write", lambda path, data, mode: write(below(root, path), data, mode)
    )
    monkeypatch.setattr(
        install, "_move", lambda source, state: move(source, below(root, state))
    )
    monkeypatch.setattr(settings, "PLACE", tmp_path / "nothing" / "agent.ini")
    return root


def below(root, path):
    return path if path.is_relative_to(root) else root / path.relative_to("/")


def enrolled(folder, state, client=3):
    from fedlearn.clients.agent import identity as own

    if not folder.exists():
        identity.make(folder)
    certificate = identity.sign(folder, client, own.make_key_and_csr(state))
    own.store(
        state,
        client,
        certificate,
        (folder / "ca.pem").read_bytes(),
        identity.expiry(certificate),
    )
    return state


def run(*arguments, capsys):
    code = install.main([str(argument) for argument in arguments])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_an_installation(called, elsewhere, tmp_path, capsys):
    state = enrolled(tmp_path / "pki", tmp_path / "agent")
    code, out, err = run(
        "--coordinator", "h.example:7400", "--state", state, capsys=capsys
    )
    assert (code, err) == (0, "")
    assert called == [
        ("systemd-sysusers", "/etc/sysusers.d/fedlearn.conf"),
        ("systemctl", "daemon-reload"),
        ("systemctl", "enable", unit.NAME),
        ("systemctl", "restart", unit.NAME),
    ]
    key = elsewhere / "var/lib/fedlearn/identity.json"
    assert oct(key.stat().st_mode)[-3:] == "600"
    assert not (state / "identity.json").exists()
    ini = elsewhere / settings.PLACE.relative_to("/")
    assert settings.read(ini).agent["coordinator"] == "h.example:7400"
    assert oct(ini.stat().st_mode)[-3:] == "600"
    assert "client 3" in out


def test_an_installation_that_waits(called, elsewhere, tmp_path, capsys):
    state = enrolled(tmp_path / "pki", tmp_path / "agent")
    assert (
        run("--coordinator", "h:1", "--state", state, "--no-start", capsys=capsys)[0]
        == 0
    )
    assert called[-1] == ("systemctl", "enable", unit.NAME)


def test_an_identity_of_another_client_stays(called, elsewhere, tmp_path, capsys):
    enrolled(tmp_path / "pki", elsewhere / "var/lib/fedlearn", client=4)
    state = enrolled(tmp_path / "pki", tmp_path / "agent")
    code, _, err = run("--coordinator", "h:1", "--state", state, capsys=capsys)
    assert (code, "belongs to client 4" in err) == (2, True)
    assert (state / "identity.json").exists()
    assert called == []


def test_an_image(tmp_path, capsys):
    (tmp_path / "mine.ini").write_text(
        "[agent]\ncoordinator = h:1\ndata = x.npz\n[rules]\nmetered = yes\n"
    )
    root = tmp_path / "image"
    root.mkdir()
    code, _, err = run(
        "--root",
        root,
        "--settings",
        tmp_path / "mine.ini",
        "--user",
        "fl",
        "--data",
        "auto",
        capsys=capsys,
    )
    assert (code, err) == (0, "")
    link = root / "etc/systemd/system/multi-user.target.wants" / unit.NAME
    assert link.is_symlink()
    assert "User=fl" in link.read_text()
    found = settings.read(root / "etc/fedlearn/agent.ini")
    assert (found.agent["data"], found.rules.metered) == ("auto", True)
    assert (
        run("--root", root, "--coordinator", "i:2", capsys=capsys)[0] == 0
    )  # again: what was set stays
    found = settings.read(root / "etc/fedlearn/agent.ini")
    assert (found.agent["coordinator"], found.rules.metered) == ("i:2", True)


@pytest.mark.parametrize(
    ("name", "target", "file"),
    [
        # As the image would follow them: from its own root, and no higher.
        ("etc", "/own/etc", "own/etc/fedlearn/agent.ini"),
        ("etc/fedlearn", "{host}", "{host}/agent.ini"),
        ("etc/fedlearn", "../../../{host}", "{host}/agent.ini"),
        ("etc/systemd", "/own/systemd", "own/systemd/system/fedlearn-agent.service"),
        ("var", "../../../../own", "own/lib/fedlearn/identity.json"),
        # A link in the place of the file itself is replaced.
        ("etc/fedlearn/agent.ini", "{host}/file", "etc/fedlearn/agent.ini"),
    ],
)
def test_an_image_that_has_links_is_not_left(name, target, file, tmp_path, capsys):
    host = tmp_path / "host"
    host.mkdir()
    (host / "file").write_text("[agent]\ncoordinator = of.the.host:1\n")
    (host / "agent.ini").write_text("[agent]\ncoordinator = of.the.host:1\n")
    before = {path.name: path.read_bytes() for path in host.iterdir()}
    root = tmp_path / "image"
    link = root / name
    link.parent.mkdir(parents=True)
    link.symlink_to(target.format(host=host))
    state = enrolled(tmp_path / "pki", tmp_path / "agent")
    code, _, err = run("--root", root, "--data", "auto", capsys=capsys)
    assert (code, "where is the coordinator?" in err) == (2, True)
    options = ("--root", root, "--coordinator", "h:1", "--state", state)
    assert run(*options, capsys=capsys)[0] == 0
    assert {path.name: path.read_bytes() for path in host.iterdir()} == before
    inner = file.format(host=str(host).lstrip("/"))
    assert (root / inner).is_file()
    assert not (root / inner).is_symlink()


def test_links_in_a_circle_are_one_line(tmp_path, capsys):
    (tmp_path / "image").mkdir()
    (tmp_path / "image/etc").symlink_to("/etc")
    code, _, err = run(
        "--root", tmp_path / "image", "--coordinator", "h:1", capsys=capsys
    )
    assert (code, err.count("\n")) == (3, 1)
    assert "cannot follow" in err


def test_to_print_changes_nothing(elsewhere, tmp_path, monkeypatch, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.ini").write_text("[agent]\ndata = x.npz\n")
    monkeypatch.setattr(install, "_write", None)
    monkeypatch.setattr(install, "_call", None)
    monkeypatch.setattr(
        Path, "is_relative_to", lambda path, other: False
    )  # the tests' own folder is in /tmp
    code, out, _ = run(
        "--print",
        "--coordinator",
        "h:1",
        "--settings",
        tmp_path / "data" / "mine.ini",
        capsys=capsys,
    )
    assert code == 0
    assert f"data = {tmp_path}/data/x.npz" in out
    assert "WatchdogSec=60" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--root", "/none"], "there is no folder '/none'"),
        (["--print"], "--coordinator"),
        (["--print", "--coordinator", "here"], "HOST:PORT"),
        (["--print", "--coordinator", "h:1", "--settings", "/none.ini"], "/none.ini"),
        (["--print", "--coordinator", "h:1", "--user", "root"], "--user root"),
        (["--print", "--coordinator", "h:1", "--data", "/tmp/x.npz"], "in /tmp"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, words, capsys):
    code, out, err = run(*arguments, capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_without_an_identity(called, elsewhere, tmp_path, capsys):
    code, _, err = run("--coordinator", "h:1", "--state", tmp_path, capsys=capsys)
    assert (code, "fedlearn enroll" in err, called) == (2, True, [])


def test_without_systemd(monkeypatch, capsys):
    monkeypatch.setattr(Path, "is_dir", lambda path: False)
    code, _, err = run("--coordinator", "h:1", capsys=capsys)
    assert (code, "systemd does not run here" in err) == (2, True)


def test_an_environment_that_the_service_cannot_read(tmp_path, monkeypatch):
    monkeypatch.setattr(install, "find_spec", lambda name: None)
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.name.startswith(
            ("test_", "pytest-", "popen-")
        ):  # pytest's own, which others may not read
            folder.chmod(0o755)
    (tmp_path / "venv").mkdir(mode=0o755)
    python = tmp_path / "venv" / "python"
    python.touch(mode=0o755)
    install._check_readable([python], "fedlearn")
    python.parent.chmod(0o750)
    with pytest.raises(
        UserError,
        match=f"user fedlearn cannot read '{python}' .'{python.parent}' is closed to others",
    ):
        install._check_readable([python], "fedlearn")
    python.parent.chmod(0o755)
    monkeypatch.setattr(
        "fedlearn.commands.install.site.getusersitepackages", lambda: str(tmp_path)
    )
    with pytest.raises(UserError, match="fedlearn is installed for one user only"):
        install._check_readable([python], "fedlearn")


def test_a_command_that_fails_is_told(tmp_path, monkeypatch):
    from fedlearn.errors import RunError

    (tmp_path / "systemctl").write_text(
        "#!/bin/sh\necho 'Job for it failed.' >&2\nexit 1\n"
    )
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        RunError, match=r"systemctl restart x: Job for it failed.; look there"
    ):
        install._call("systemctl", "restart", "x", fix="look there")
    with pytest.raises(RunError, match="systemd-sysusers is missing"):
        install._call("systemd-sysusers")


# What the agent tells systemd


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(abstract, tmp_path, monkeypatch):
    address = f"\0fedlearn-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        listener.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", address.replace("\0", "@"))
        notify.tell(READY=1, STATUS="attends\nMAINPID=1")
        assert listener.recv(1000) == b"READY=1\nSTATUS=attends MAINPID=1"


@pytest.mark.parametrize("address", [None, "", "relative", "/none/of/it"])
def test_without_systemd_nothing_is_told(address, monkeypatch):
    if address is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify.tell(READY=1)


@pytest.mark.parametrize(
    ("wait_us", "process", "wanted"),
    [
        ("60000000", None, 30.0),
        ("60000000", "1", None),
        ("0", None, None),
        ("x", None, None),
        (None, None, None),
    ],
)
def test_how_often_systemd_is_told(wait_us, process, wanted, monkeypatch):
    for name, value in (("WATCHDOG_USEC", wait_us), ("WATCHDOG_PID", process)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert notify.watchdog_s() == wanted
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert notify.watchdog_s() == (None if wanted is None and process is None else 30.0)


def test_the_template_is_in_the_wheel():
    import tomllib

    data = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())[
        "tool"
    ]["setuptools"]["package-data"]
    assert any(
        unit.TEMPLATE.match(pattern)
        for pattern in data.get("fedlearn.clients.device", [])
    )
