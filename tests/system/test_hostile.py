"""A hostile place to run in: folders, disks, streams and signals. One line, the right exit
code, nothing lost.
"""

import contextlib
import fcntl
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedlearn.__main__ import COMMANDS
from fedlearn.commands.simulate import main
from tests.jobs import CONFIG, run
from tests.system.test_wrong_input import told
from tests.wrong import InterruptedInEvaluation

SIX = CONFIG.replace("rounds = 3", "rounds = 6").replace(
    "[strategy]", "[strategy]\nserver_momentum = 0.5"
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The undisturbed run."""
    return run(tmp_path_factory.mktemp("whole") / "run", config=SIX)


@pytest.fixture
def half(tmp_path):
    """A run of six rounds, of which three are done."""
    run(tmp_path / "run", "experiment.rounds=3", config=SIX)
    return tmp_path / "run"


def goes_on(folder: Path, whole) -> bool:
    resumed = run(folder, config=SIX, resume=True)
    return (
        resumed.code == 0
        and resumed.sha256 == whole.sha256
        and [line["round"] for line in resumed.lines] == list(range(7))
    )


@pytest.mark.parametrize(
    "place",
    ["file/run", "/proc/run", "/proc/self/run", "/dev/null/run", "dangling", "loop"],
)
def test_a_folder_that_cannot_be_made(place, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(tmp_path.iterdir())
    assert f"cannot write {tmp_path / place}" in told(
        capsys, main([*small(tmp_path), "--out", str(tmp_path / place)])
    )
    assert sorted(tmp_path.iterdir()) == [*before, tmp_path / "small.toml"]
    assert (tmp_path / "file").read_text() == "mine"


def small(tmp_path: Path) -> list[str]:
    (tmp_path / "small.toml").write_text(CONFIG)
    return [str(tmp_path / "small.toml"), "--quiet", "--set", "engine.kind=serial"]


@pytest.mark.parametrize(
    "out", ["", "n" * 300, "file"], ids=["empty", "too long", "a file"]
)
def test_an_out_that_is_no_folder(out, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    with contextlib.chdir(tmp_path):
        told(capsys, main([*small(tmp_path), "--out", out]))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "small.toml"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_of_something_else_stays_as_it_is(tmp_path, capsys):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("mine")
    for more, words in (
        ([], "is not empty and holds no run"),
        (["--resume"], "holds no run (it has no config.toml)"),
    ):
        assert words in told(
            capsys, main([*small(tmp_path), "--out", str(tmp_path / "thesis"), *more])
        )
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_an_empty_folder_is_used_and_left_empty_by_a_wrong_config(tmp_path):
    (tmp_path / "run").mkdir()
    assert run(tmp_path / "run", "strategy.fraction_train=7").code == 2
    assert list((tmp_path / "run").iterdir()) == []
    assert run(tmp_path / "run").code == 0


@pytest.mark.parametrize("resume", [False, True])
def test_what_a_killed_start_leaves_blocks_no_folder(resume, tmp_path):
    """Each file that is replaced has a part beside it, and an authority a folder."""
    folder = tmp_path / "run"
    (folder / ".pki.k2j4").mkdir(parents=True)
    (folder / ".pki.k2j4" / "ca.key").write_text("half")
    for name in (".address.json.part", ".manifest.json.part", ".run_id.part"):
        (folder / name).write_bytes(b"\0half")
    (folder / "devices.json").write_text("{}")
    began = run(folder, resume=resume)
    assert began.code == 0
    left = [entry.name for entry in folder.iterdir() if entry.name.startswith(".")]
    assert left == [".lock"]


def test_resume_refuses_another_experiment_and_nothing_at_all(half, tmp_path, capsys):
    before = {p.name: p.read_bytes() for p in half.rglob("*") if p.is_file()}
    for sets, words in (
        (["train.lr=0.1"], "holds another experiment: train.lr differs"),
        (["experiment.seed=1", "model.name=2nn"], "experiment.seed, model.name differ"),
        (["experiment.rounds=2"], "3 rounds are done, more than experiment.rounds = 2"),
    ):
        assert words in told(capsys, run(half, *sets, config=SIX, resume=True).code)
    assert "already holds a run; add --resume" in told(
        capsys, run(half, config=SIX).code
    )
    assert {p.name: p.read_bytes() for p in half.rglob("*") if p.is_file()} == before
    with contextlib.chdir(tmp_path):
        assert "there is no run in runs/" in told(capsys, main(["--resume"]))


def test_a_folder_in_use_is_refused(half, capsys):
    with open(half / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another process is writing to" in told(
            capsys, run(half, config=SIX, resume=True).code
        )


def test_more_rounds_stay_asked_for_when_a_resumed_run_is_stopped(half, whole):
    config = SIX.replace(
        'name = "logistic"', 'name = "tests.wrong:InterruptedInEvaluation"'
    )
    folder = half.with_name("more")
    InterruptedInEvaluation.scored = 10  # never interrupts
    run(folder, "experiment.rounds=3", config=config)
    InterruptedInEvaluation.scored = 0
    assert run(folder, config=config, resume=True).code == 130
    assert (
        main(["--resume", "--quiet", "--out", str(folder)]) == 0
    )  # the command that the interrupted run tells
    assert json.loads((folder / "summary.json").read_text())["rounds"] == 6


TORN = (
    "metrics.jsonl",
    "manifest.json",
    "summary.json",
    "model.safetensors",
    "report.html",
)


GARBAGE = {
    "empty": b"",
    "binary": b"\x00\xff\xfe garbage\n\n{",
    "JSON": b'{"round": "two"}\n[1]\nnull\n',
    "deep": b"[" * 9_999,
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=list(GARBAGE))
def test_torn_files_never_stop_a_resume(garbage, half, whole):
    lines = (half / "metrics.jsonl").read_bytes()
    for name in TORN:
        (half / name).write_bytes(garbage)
    (half / "metrics.jsonl").write_bytes(lines + garbage)
    (half / ".config.toml.part").write_bytes(garbage)
    assert goes_on(half, whole)


def test_without_a_whole_checkpoint_a_run_starts_anew(half, whole):
    for number, file in enumerate(sorted((half / "checkpoint").iterdir())):
        file.write_bytes([b"", file.read_bytes()[:100]][number % 2])
    (half / "checkpoint" / "99999999.safetensors").write_bytes(b"\xff" * 64)
    assert goes_on(half, whole)


def test_lost_lines_are_not_made_up(half, whole):
    first = (half / "metrics.jsonl").read_bytes().splitlines(keepends=True)[0]
    for kept, rounds in ((b"", [3]), (first, [0, 3])):
        (half / "metrics.jsonl").write_bytes(kept)
        resumed = run(
            half, "experiment.rounds=3", config=SIX, resume=True
        )  # nothing left to do but to sum up
        assert resumed.code == 0 and [line["round"] for line in resumed.lines] == rounds
        assert (
            resumed.lines[-1]["accuracy"]
            == resumed.summary["accuracy"]
            == whole.lines[3]["accuracy"]
        )
    resumed = run(half, config=SIX, resume=True)
    assert resumed.sha256 == whole.sha256 and [
        line["round"] for line in resumed.lines
    ] == [0, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "text",
    ['[experiment]\nname = "ti', "\xff", "rounds = 3"],
    ids=["torn", "not text", "another"],
)
def test_a_torn_config_is_not_guessed(text, half, whole, capsys):
    good = (half / "config.toml").read_bytes()
    (half / "config.toml").write_text(text, encoding="latin-1")
    assert "which experiment" in told(capsys, run(half, config=SIX, resume=True).code)
    told(capsys, main(["--resume", "--out", str(half)]))
    (half / "config.toml").write_bytes(good)
    assert goes_on(half, whole)


@contextlib.contextmanager
def largest_file(size_bytes: int):
    """Let no file grow beyond a size: writing more fails half-way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_at_the_start(tmp_path, capsys):
    with largest_file(100):
        ran = run(tmp_path / "run", config="")
    assert "config.toml: File too large" in told(capsys, ran.code)
    assert ran.code == 3 and not ran.folder.exists()


def test_a_disk_that_fills_in_the_middle_loses_nothing(tmp_path, capsys):
    rounds = "experiment.rounds=20"
    calm = run(tmp_path / "calm", rounds, config=SIX)
    others = [
        *(calm.folder / "checkpoint").iterdir(),
        *(calm.folder / name for name in ("manifest.json", "config.toml")),
    ]
    limit = max(file.stat().st_size for file in others) + 64
    assert (
        limit < (calm.folder / "metrics.jsonl").stat().st_size
    )  # so it is this file that hits the limit
    with largest_file(limit):
        ran = run(tmp_path / "run", rounds, config=SIX)
    advice = "what was written before is kept, and --resume goes on from there"
    assert f"metrics.jsonl: File too large; {advice}" in told(capsys, ran.code)
    assert ran.code == 3 and not list(ran.folder.rglob("*.part"))
    assert 2 < (ran.folder / "metrics.jsonl").read_bytes().count(b"\n") < 20
    resumed = run(tmp_path / "run", rounds, config=SIX, resume=True)
    assert (resumed.code, resumed.sha256) == (0, calm.sha256)
    assert [line["round"] for line in resumed.lines] == list(range(21))


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("mount"),
    reason="only root can mount a small disk",
)
def test_a_small_disk_fills_and_after_making_room_the_run_goes_on(
    tmp_path, whole, capsys
):
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40k", "small", str(disk)],
        capture_output=True,
    )
    if made.returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        (disk / "ballast").write_bytes(bytes(12_000))
        config = tmp_path / "six.toml"
        config.write_text(SIX)
        arguments = [
            str(config),
            "--quiet",
            "--out",
            str(disk / "run"),
            "--set",
            "engine.kind=serial",
        ]
        code = main(arguments)
        assert "No space left on device" in told(capsys, code)
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert (
            main(
                [
                    *arguments,
                    *(["--resume"] if (disk / "run" / "config.toml").exists() else []),
                ]
            )
            == 0
        )
        assert (
            json.loads((disk / "run" / "summary.json").read_text())["model_sha256"]
            == whole.sha256
        )
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_ctrl_c_before_the_first_round_leaves_nothing(tmp_path):
    ran = run(
        tmp_path / "run",
        config=CONFIG.replace('"digits"', '"tests.wrong:loader_is_interrupted"'),
    )
    assert ran.code == 130 and not ran.folder.exists()


def test_ctrl_c_during_an_evaluation_can_be_resumed(tmp_path, capsys):
    config = SIX.replace(
        'name = "logistic"', 'name = "tests.wrong:InterruptedInEvaluation"'
    )
    InterruptedInEvaluation.scored = 10  # never interrupts
    calm = run(tmp_path / "calm", config=config)
    InterruptedInEvaluation.scored = 0
    assert run(tmp_path / "run", config=config).code == 130
    assert run(tmp_path / "run", config=config, resume=True).sha256 == calm.sha256
    assert capsys.readouterr().err == ""


def shell(
    script: str, folder: Path, **environment: str | None
) -> subprocess.CompletedProcess[str]:
    """Run a shell script in which $FEDLEARN is the command; an environment value of None is
    taken away.
    """
    changed = {
        **os.environ,
        "FEDLEARN": f"{sys.executable} -m fedlearn",
        "PYTHONPATH": os.getcwd(),
        **environment,
    }
    env = {key: value for key, value in changed.items() if value is not None}
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("script", "code", "error"),
    [
        ("$FEDLEARN simulate --list | head -1; exit ${PIPESTATUS[0]}", 0, ""),
        (
            "$FEDLEARN simulate --list >/dev/full",
            3,
            "fedlearn: the system refuses: No space left on device\n",
        ),
        ("$FEDLEARN simulate --list >&-", 0, ""),
        ("$FEDLEARN simulate --set train.lr=-1 2>/dev/full", 2, ""),
        ("$FEDLEARN | head -0; exit ${PIPESTATUS[0]}", 0, ""),
        (
            "$FEDLEARN simulatte",
            2,
            "fedlearn: unknown command 'simulatte'. Did you mean 'simulate'? "
            f"Known: {', '.join(COMMANDS)}\n",
        ),
    ],
    ids=["head", "full", "closed", "errors full", "help", "unknown command"],
)
def test_streams_that_do_not_take_what_is_printed(script, code, error, tmp_path):
    ended = shell(script, tmp_path)
    assert (ended.returncode, ended.stderr) == (code, error)


def test_a_pool_that_cannot_start_is_one_line(tmp_path):
    """In a process of its own: the threads of a test process would meet its limit as well."""
    (tmp_path / "tiny.toml").write_text(CONFIG)
    ended = shell(
        "ulimit -n 60; $FEDLEARN simulate tiny.toml --out run "
        "--set engine.kind=pool --set engine.workers=50",
        tmp_path,
    )
    assert ended.returncode == 3 and not (tmp_path / "run").exists()
    assert ended.stderr == (
        "fedlearn: cannot start 50 worker processes: Too many open files; "
        "set engine.workers below 50\n"
    )


def test_a_whole_run_where_nothing_is_as_usual(tmp_path):
    """Standard output closed half-way, ASCII only, no home, odd names, a folder that cannot be
    written to.
    """
    config = tmp_path / "mein Versuch ü.toml"
    config.write_text(CONFIG.replace("rounds = 3", "rounds = 1"))
    out = f"{tmp_path}/läuft \udcff"
    command = f"$FEDLEARN simulate '{config}' --out '{out}' --set engine.kind=serial"
    script = f"{command} | head -1; exit ${{PIPESTATUS[0]}}"
    odd = {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "COLUMNS": "5",
        "TERM": "",
        "MPLBACKEND": "none-such",
    }
    ended = shell(script, Path("/proc"), HOME=None, **odd)
    assert (ended.returncode, ended.stdout) == (0, "fedlearn: tiny\n"), ended.stderr
    assert "Traceback" not in ended.stderr
    assert any((p / "report.html").exists() for p in tmp_path.iterdir())
