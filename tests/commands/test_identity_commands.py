"""``fedlearn pki``, ``token``, ``enroll`` and ``revoke``: from nothing to a certificate.

Every mistake is one line.
"""

import io
import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fedlearn.clients.agent.identity import read_identity
from fedlearn.commands import authority, enroll, pki, revoke, token
from fedlearn.server import identity, tokens
from tests.server.test_identity import enrolling

ROOT = Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """A folder to work in, with an authority under its usual name."""
    monkeypatch.chdir(tmp_path)
    assert pki.main(["init", "--name", "coordinator.example.org"]) == 0
    out, error = capsys.readouterr()
    assert (
        error == ""
        and "next, a token for each client: fedlearn token --client ID\n" in out
    )
    assert "coordinator.example.org, localhost, 127.0.0.1, ::1" in out
    return tmp_path


def word(capsys, *arguments):
    assert token.main(["--client", "7", *arguments]) == 0
    out, error = capsys.readouterr()
    assert out.count("\n") == 1 and error == ""
    return out.strip()


def told(capsys, code, expected):
    """Return the one line of standard error, after checking that nothing else was printed."""
    out, error = capsys.readouterr()
    assert (expected, out) == (code, "")
    assert (
        error.startswith("fedlearn: ")
        and error.count("\n") == 1
        and "Traceback" not in error
    )
    return error


def test_from_nothing_to_a_certificate_and_out_again(here, capsys, monkeypatch):
    with enrolling(here / "pki") as port:
        address = ["--coordinator", f"127.0.0.1:{port}"]
        (here / "token.txt").write_text(word(capsys) + "\n")
        assert enroll.main([*address, "--token-file", "token.txt"]) == 0
        assert (
            "this device is client 7; its identity is in 'agent'"
            in capsys.readouterr().out
        )
        first = read_identity(here / "agent")
        assert (
            first is not None
            and stat.S_IMODE((here / "agent" / "identity.json").stat().st_mode) == 0o600
        )

        assert "used already" in told(
            capsys, enroll.main([*address, "--token-file", "token.txt"]), 2
        )

        assert revoke.main(["7"]) == 0
        assert (
            capsys.readouterr().out
            == "client 7 is refused from now on (valid certificates: 1, unused tokens: 0)\n"
        )
        assert tokens.Revocations(here / "pki").refused(
            *identity.identity_of(first.certificate)
        )

        monkeypatch.setattr(
            "sys.stdin", io.StringIO(word(capsys, "--hours", "0.5") + "\n")
        )
        assert enroll.main([*address, "--token", "-"]) == 0
        second = read_identity(here / "agent")
        assert second is not None and not tokens.Revocations(here / "pki").refused(
            *identity.identity_of(second.certificate)
        )
        capsys.readouterr()

        assert (
            enroll.main([*address, "--token", word(capsys), "--state", "elsewhere"])
            == 0
        )
        assert read_identity(here / "elsewhere") is not None


def test_the_authority_is_not_overwritten(here, capsys):
    before = (here / "pki" / "ca.key").read_bytes()
    assert "holds an authority already" in told(capsys, pki.main(["init"]), 2)
    assert (here / "pki" / "ca.key").read_bytes() == before
    assert pki.main(["init", "--pki", "a b", "--days", "5"]) == 0
    assert "fedlearn token --client ID --pki 'a b'" in capsys.readouterr().out
    assert json.loads((here / "a b" / "issued.json").read_text())["days"] == 5


def test_the_servers_names_anew(here, capsys):
    assert pki.main(["server", "--name", "10.0.0.9"]) == 0
    assert "for 10.0.0.9, localhost, 127.0.0.1, ::1; restart" in capsys.readouterr().out
    assert identity.server_names(here / "pki")[0] == "10.0.0.9"


MISTAKES = [
    (pki.main, ["init", "--pki", "x", "--name", "a:1"], 2, "neither a DNS name"),
    (pki.main, ["init", "--pki", "x", "--days", "0"], 2, "out of range"),
    (pki.main, ["init", "--pki", "file/x"], 3, "cannot write"),
    (pki.main, ["server", "--pki", "x"], 2, "fedlearn pki init --pki x"),
    (token.main, ["--client", "7", "--pki", "x"], 2, "fedlearn pki init --pki x"),
    (token.main, ["--client", "-1"], 2, "no client's id"),
    (token.main, ["--client", "7", "--hours", "nan"], 2, "out of range"),
    (revoke.main, ["9"], 2, "neither a certificate nor a token"),
    (revoke.main, ["--", "-1"], 2, "no client's id"),
    (enroll.main, ["--coordinator", "host", "--token", "x"], 2, "write HOST:PORT"),
    (enroll.main, ["--coordinator", "host:1", "--token", "x"], 2, "not a token"),
    (
        enroll.main,
        ["--coordinator", "host:1", "--token-file", "none.txt"],
        2,
        "'none.txt': No such file",
    ),
    (
        enroll.main,
        ["--coordinator", "host:1", "--token-file", "/dev/zero"],
        2,
        "not a token",
    ),
    (enroll.main, ["--coordinator", "host:1", "--token-file", "a\0b"], 2, "null"),
]


@pytest.mark.parametrize(
    ("main", "arguments", "code", "reason"),
    MISTAKES,
    ids=[" ".join(case[1]).replace("\0", "0") for case in MISTAKES],
)
def test_a_mistake_is_one_line(main, arguments, code, reason, here, capsys):
    (here / "file").write_text("mine")
    before = sorted(here.rglob("*"))
    assert reason in told(capsys, main(arguments), code)
    assert [
        path
        for path in sorted(here.rglob("*"))
        if path not in before and path.name != ".lock"
    ] == []


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (pki.main, []),
        (pki.main, ["init", "--days", "x"]),
        (pki.main, ["int"]),
        (token.main, []),
        (token.main, ["--client", "x"]),
        (revoke.main, []),
        (enroll.main, ["--coordinator", "h:1"]),
        (enroll.main, ["--coordinator", "h:1", "--token", "x", "--token-file", "y"]),
    ],
)
def test_wrong_arguments_end_with_2(main, arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_coordinator_that_is_not_there_or_is_another(here, capsys):
    """In a process of its own, where gRPC's log would stand on standard error."""
    ours = word(capsys)
    assert pki.main(["init", "--pki", "other"]) == 0

    def ran(port):
        command = [
            sys.executable,
            "-m",
            "fedlearn.commands.enroll",
            "--coordinator",
            f"127.0.0.1:{port}",
            "--token",
            ours,
            "--state",
            here / "agent",
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert (
            done.stdout == ""
            and done.stderr.startswith("fedlearn: ")
            and done.stderr.count("\n") == 1
        )
        return done.returncode, done.stderr

    code, line = ran(1)
    assert code == 3 and "cannot be reached" in line
    with enrolling(here / "other") as port:
        code, line = ran(port)
    assert code == 2 and "could not prove" in line


@pytest.mark.parametrize("module", ["pki", "token", "revoke"])
def test_without_cryptography_the_install_line_is_told(
    module, here, capsys, monkeypatch
):
    monkeypatch.setattr(authority, "find_spec", lambda name: None)
    arguments = {"pki": ["init"], "token": ["--client", "7"], "revoke": ["7"]}[module]
    main = {"pki": pki, "token": token, "revoke": revoke}[module].main
    assert "pip install 'fedlearn[sim]'" in told(capsys, main(arguments), 2)


def test_enrolling_loads_nothing_heavy():
    code = (
        "import sys\nfrom fedlearn.commands.enroll import main\n"
        "main(['--coordinator', 'h:1', '--token', 'x'])\n"
        "heavy = {'torch', 'flwr', 'numpy', 'pydantic', 'rich', 'cryptography'}\n"
        "print(heavy & set(sys.modules), 'grpc' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    ).stdout
    assert out.strip() == "set() True"
