"""A disk that fails ends the run; it never counts as clients that failed."""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedlearn.arrays import Entry, Layout
from fedlearn.memory.slots import contracts
from tests.jobs import CONFIG, run

CODEC = CONFIG + '[codec]\nup = "ef+eden1"\ndown = "eden1"\n'


@pytest.mark.parametrize("engine", ["serial", "pool"])
def test_a_full_disk_ends_the_run_and_room_lets_it_go_on(engine, tmp_path):
    """The file of copies may grow to 60,000 bytes, which the first round passes."""
    (tmp_path / "c.toml").write_text(CODEC)
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000));"
        "from fedlearn.commands.simulate import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = [
        str(tmp_path / "c.toml"),
        "--quiet",
        "--out",
        str(tmp_path / "run"),
        "--set",
        f"engine.kind={engine}",
    ]
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert ended.returncode == 3
    assert "copies.f32" in ended.stderr or "residuals.f32" in ended.stderr
    assert "--resume" in ended.stderr
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 60_000  # ours is untouched
    resumed = run(tmp_path / "run", config=CODEC, resume=True, engine=engine)
    assert resumed.sha256 == run(tmp_path / "whole", config=CODEC).sha256


def test_the_older_checkpoint_stays_sound_after_a_resume(tmp_path):
    """Stop at round 6, resume, stop at 8, lose the newest checkpoint.

    The one before it still names whole copies.
    """
    every = "experiment.checkpoint_every=3"
    whole = run(tmp_path / "whole", "experiment.rounds=8", every, config=CODEC)
    run(tmp_path / "run", "experiment.rounds=6", every, config=CODEC)
    folder = tmp_path / "run" / "checkpoint"
    saved = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    assert len(saved) == 2
    run(tmp_path / "run", "experiment.rounds=8", every, config=CODEC, resume=True)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    oldest = min(saved)
    (folder / oldest).write_bytes(saved[oldest])
    assert (
        run(
            tmp_path / "run", "experiment.rounds=8", every, config=CODEC, resume=True
        ).sha256
        == whole.sha256
    )


def test_damaged_copies_are_told(tmp_path, capsys):
    run(tmp_path / "run", config=CODEC)
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    size = (tmp_path / "again" / "checkpoint" / "copies.f32").stat().st_size
    (tmp_path / "again" / "checkpoint" / "copies.f32").write_bytes(bytes(size))
    file = tmp_path / "again.toml"
    file.write_text(CODEC)
    from fedlearn.commands.simulate import main

    assert (
        main(
            [
                str(file),
                "--out",
                str(tmp_path / "again"),
                "--resume",
                "--set",
                "experiment.rounds=5",
                "--set",
                "engine.kind=serial",
            ]
        )
        == 0
    )
    assert "was damaged" in "".join(capsys.readouterr())
    assert json.loads((tmp_path / "again" / "summary.json").read_text())["failed"] == 0


@pytest.mark.parametrize("down", ["eden1", "cvq(0.5)"])
def test_a_lagging_copy_is_no_part_of_an_update(down, tmp_path):
    """Flower's FedAvg, without momentum, is ours.

    What a client's copy lacks must not be averaged into the model.
    """
    flower = CONFIG.replace(
        'name = "fedavg"', 'name = "flwr.serverapp.strategy:FedAvg"'
    )
    ours = CONFIG + "server_momentum = 0.0\n"
    sets = ("experiment.rounds=20", f'codec.down="{down}"')
    found = [
        run(tmp_path / name, *sets, config=text).summary["accuracy"]
        for name, text in (("flower", flower), ("ours", ours))
    ]
    exact = run(tmp_path / "exact", "experiment.rounds=20", config=ours).summary[
        "accuracy"
    ]
    assert abs(found[0] - exact) < 0.06 and abs(found[1] - exact) < 0.06


def test_buffers_do_not_make_a_difference_look_good():
    """They always arrive; whether a difference helps is judged by the trained values alone."""
    layout = Layout(
        (Entry("w", (2,), "float32", True), Entry("mean", (2,), "float32", False))
    )
    base, target = (
        np.array([0, 0, 0, 0], np.float32),
        np.array([3, 4, 1000, 1000], np.float32),
    )
    assert not contracts(layout, base, np.array([0, 0, 1000, 1000], np.float32), target)
    assert contracts(
        layout, base, np.array([3, 1, 1000, 1000], np.float32), target
    )  # 3 of 5 are left
