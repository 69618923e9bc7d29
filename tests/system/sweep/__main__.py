"""Whether every file call of a run may go wrong: `python -m tests.system.sweep OUT`.

As SQLite tests itself: three short runs are made again and again, and each time another one of
their file calls goes wrong, from the first to the last.

simulate    a pool with error feedback and a shadow downlink: all its processes
serve       a coordinator of two agents
work        an agent, and the process that trains for it

Each call goes wrong in five ways: it fails once; it and all after it fail; its process is killed
before it, or after it; it moves half of its bytes. Then the run must have come to the
simulation's result, or have ended with one line and come to it after a new start. A device whose
own disk failed may lose its round, and says so; the model is then that of the others.

The calls are those below a run's folder, an agent's, and the authority's: see `shim.c`. A line
for each scene tells how many there are, and the share of them that was struck.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fedlearn.errors import FedlearnError
from fedlearn.experiments.benchmarks import chaos, unruly
from fedlearn.experiments.benchmarks.nursery import Nursery, start_with_pipes
from tests.system.sweep import shim
from tests.system.sweep.scenes import NO_PICTURES, SCENES, Lab, Trial
from tests.system.sweep.shim import FAULTS, Plan, met


def _warm() -> None:
    chaos.warm()
    from fedlearn.reporting import style

    # The same files, sooner; and what the first picture of a process imports.
    style.DPI = 20
    with (
        tempfile.TemporaryDirectory() as folder,
        style.canvas(Path(folder) / "first.png", "First"),
    ):
        pass


def _command(name: str, arguments: list[str]) -> int:
    """Be a process; what works for an agent follows the agent's plan."""
    if os.environ.get(NO_PICTURES):
        from fedlearn.reporting import plots

        vars(plots)["draw"] = lambda folder: []
    if name == "serve":
        from fedlearn.commands import serve

        return serve.main(arguments)
    if name == "agent":
        followed = {shim.VARIABLE: os.environ[shim.VARIABLE]}

        async def spawn(address, command, environment):
            return await start_with_pipes(address, command, environment | followed)

        vars(unruly)["start_with_pipes"] = spawn
    return chaos.run_command(name, arguments)


class Sweep:
    """All trials that were asked for."""

    def __init__(self, given: argparse.Namespace, nursery: Nursery) -> None:
        self.given = given
        self.lab = Lab(given.out, nursery)
        self.right = True

    async def run(self) -> None:
        await self.lab.prepare()
        for scene in self.given.scenes:
            await self._sweep(scene)

    async def _sweep(self, scene: str) -> None:
        begun = time.monotonic()
        folder = self._folder(scene, "none", 0)
        plan = Plan.write(folder / "plan", folder / "out")
        ended = await SCENES[scene](self.lab, folder, plan)
        if ended != "same":
            raise FedlearnError(f"{scene} without a fault: {ended}")
        calls = plan.calls
        shutil.rmtree(folder)
        jobs = asyncio.Semaphore(self.given.jobs)
        trials = await asyncio.gather(
            *(self._trial(jobs, scene, fault, at) for fault, at in self._chosen(calls))
        )
        self._tell(scene, calls, trials, time.monotonic() - begun)

    def _chosen(self, calls: Sequence[str]) -> list[tuple[str, int]]:
        """Return (fault, call) of each trial: all there are, or so many evenly among them."""
        if self.given.only:
            return [
                (fault, at) for fault in self.given.faults for at in self.given.only
            ]
        trials = [
            (fault, at)
            for fault in self.given.faults
            for at in range(1, 1 + len(met(fault, calls)))
        ]
        stride = max(1, len(trials) // (self.given.trials or len(trials)))
        return trials[stride // 2 :: stride]

    async def _trial(self, jobs, scene: str, fault: str, at: int) -> Trial:
        async with jobs:
            folder = self._folder(scene, fault, at)
            plan = Plan.write(folder / "plan", folder / "out", at, fault)
            ended, problem = "", ""
            try:
                ended = await SCENES[scene](self.lab, folder, plan)
            except (FedlearnError, OSError, ValueError, asyncio.TimeoutError) as error:
                problem = f"{type(error).__name__}: {error}"
            call = (plan.calls or [""])[0].replace(f"{folder}/", "")
            trial = Trial(scene, fault, at, call if plan.struck else "", ended, problem)
            if problem:
                self.right = False
                print(json.dumps(vars(trial)), flush=True)
            with (self.given.out / "trials.jsonl").open("a") as file:
                file.write(json.dumps(vars(trial)) + "\n")
            if not problem:
                shutil.rmtree(folder)
            return trial

    def _folder(self, scene: str, fault: str, at: int) -> Path:
        folder = self.given.out / f"{scene}-{fault}-{at}"
        folder.mkdir()
        return folder

    def _tell(
        self, scene: str, calls: Sequence[str], trials: Sequence[Trial], seconds: float
    ) -> None:
        possible = sum(len(met(fault, calls)) for fault in FAULTS)
        struck = sum(bool(trial.call) for trial in trials)
        line = {
            "scene": scene,
            "calls": len(calls),
            "kinds": dict(Counter(call.split()[0] for call in calls).most_common()),
            "trials": len(trials),
            "struck": struck,
            # Of all faults at all calls.
            "covered": round(struck / possible, 3),
            "ended": dict(Counter(trial.ended for trial in trials if trial.ended)),
            "wrong": sum(bool(trial.problem) for trial in trials),
            "seconds": round(seconds),
        }
        print(json.dumps(line), flush=True)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    description, _, more = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m tests.system.sweep",
        description=description,
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="an empty folder for what goes wrong")
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=list(SCENES))
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument(
        "--trials",
        type=int,
        metavar="N",
        help="about so many of each scene, evenly among all (default: all)",
    )
    parser.add_argument(
        "--only",
        type=int,
        nargs="+",
        metavar="K",
        help="the K-th calls alone",
    )
    parser.add_argument(
        "--jobs", type=int, default=4, help="trials at a time (default: 4)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Sweep; return 1 where a trial was not right."""
    arguments = _arguments(argv)
    arguments.out = arguments.out.absolute()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if "LD_PRELOAD" not in os.environ:
        if any(arguments.out.iterdir()):
            sys.exit(f"{arguments.out} is not empty; name another folder")
        if shim.compiler() is None:
            sys.exit("there is no C compiler: install one that is called cc")
        # The loader reads it when a program begins, so this one begins again.
        library = str(shim.build(arguments.out))
        command = [sys.executable, "-m", "tests.system.sweep", *argv]
        os.execve(sys.executable, command, {**os.environ, "LD_PRELOAD": library})
    names = ("serve", "simulate", "agent", "work", "survivors")
    nursery = Nursery({name: partial(_command, name) for name in names}, _warm)
    sweep = Sweep(arguments, nursery)
    try:
        asyncio.run(sweep.run())
    finally:
        nursery.close()
    return 0 if sweep.right else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
