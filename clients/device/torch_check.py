"""Whether torch works on this device, for `fedlearn doctor`.

A process of its own loads torch and runs kernels (`fedlearn.clients.device.kernel`): a broken
build or driver may end or hang it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedlearn.clients.device.findings import FAILS, NOTE, WELL, Finding

# How long torch may take to load and to run its first kernel; a Jetson reads it from an SD card.
KERNEL_S = 180.0

# Exit code of a process that the kernel, or a person, killed.
_KILLED = -9

# Characters of a process's last line of errors.
_LAST_LENGTH = 300

_MISFIT = "the build does not fit this processor"


def torch(
    jetson: bool,
    command: Sequence[str] = (sys.executable, "-m", "fedlearn.clients.device.kernel"),
    timeout_s: float = KERNEL_S,
) -> Finding:
    """Have a process load torch and run kernels, and return what came of it.

    jetson: the device is one, and wants NVIDIA's own torch.
    """
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        output, errors = child.communicate(timeout=timeout_s)
        ending = _ending(child.returncode)
    except subprocess.TimeoutExpired:
        child.kill()
        output, errors = child.communicate()
        ending = f"it does not come back within {timeout_s:g} s"
    lines = errors.decode(errors="replace").strip().splitlines()
    last = lines[-1][:_LAST_LENGTH] if lines else ""
    return _Judge(_facts(output), ending, last, jetson).finding()


def _facts(output: bytes) -> dict[str, Any]:
    """Return what the process told; torch and its libraries print what they like among it."""
    # Lines that only look like JSON objects cannot be told from ours by their
    # beginning.
    facts: dict[str, Any] = {}
    for line in output.decode(errors="replace").splitlines():
        if line.startswith("{") and line.endswith("}"):
            facts.update(json.loads(line))
    return facts


class _Judge:
    """From what the process told to a finding, step by step.

    ending: how the process ended, None: well. last: the last line of its errors.
    """

    def __init__(
        self, facts: Mapping[str, Any], ending: str | None, last: str, jetson: bool
    ) -> None:
        self.facts = facts
        # A signal says more than the last line, which may be any warning.
        self.reason = ending or last
        self.jetson = jetson
        self.install = _install(jetson)

    def finding(self) -> Finding:
        """Return the finding; the first step that fails decides."""
        # In the order in which they happen: a later step means nothing after a failure.
        finding = self._import() or self._cpu() or self._start_gpu()
        return finding or self._gpu()

    def _fails(self, text: str, fix: str) -> Finding:
        return Finding("torch", FAILS, text, fix, self.facts)

    @property
    def _version(self) -> str:
        return f"torch {self.facts['version']}"

    def _import(self) -> Finding | None:
        """Judge whether torch can be loaded; None: it can."""
        facts = self.facts
        if "missing" in facts:
            text = f"no module '{facts['missing']}'"
            if _is_closed():
                text += (
                    " (this environment does not see the system's packages: "
                    "make it with --system-site-packages)"
                )
            return self._fails(text, self.install)
        if "broken" in facts:
            text = f"torch is there but cannot be loaded: {facts['broken']}"
            return self._fails(text, f"it was built for another system; {self.install}")
        if "version" not in facts:
            text = f"importing torch: {self.reason or 'nothing came back'}"
            fix = f"python3 -X faulthandler -c 'import torch'; then {self.install}"
            return self._fails(text, fix)
        return None

    def _cpu(self) -> Finding | None:
        """Judge whether the CPU computes rightly; None: it does."""
        if "cpu_wrong" not in self.facts:
            text = f"{self._version}: on the CPU {self.reason}"
        elif self.facts["cpu_wrong"]:
            mistake = self.facts["cpu_wrong"]
            text = f"{self._version} computes wrongly on the CPU: {mistake}"
        else:
            return None
        return self._fails(text, f"{_MISFIT}; {self.install}")

    def _start_gpu(self) -> Finding | None:
        """Judge whether there is a GPU; None: there is."""
        facts = self.facts
        # On other boards a CPU alone is normal; a Jetson was bought for its GPU.
        if "no_gpu" in facts and self.jetson:
            reason = str(facts["no_gpu"]).splitlines()[0]
            text = f"{self._version} finds no GPU ({reason}); it trains on the CPU"
            groups = "is this user in the groups video and render?"
            return Finding(
                "torch", NOTE, text, f"{groups} If so: {self.install}", facts
            )
        if "no_gpu" in facts:
            text = f"{self._version}, on the CPU"
            return Finding("torch", WELL, text, figures=facts)
        if "gpu" not in facts:
            text = f"{self._version}: looking for a GPU {self.reason}"
            fix = "the driver does not answer; restart the device, and see 'dmesg'"
            return self._fails(text, fix)
        return None

    def _gpu(self) -> Finding:
        """Judge whether the GPU computes rightly."""
        facts = self.facts
        gpu = f"{facts['gpu']} ({facts['capability']})"
        if facts.get("gpu_wrong"):
            mistake = facts["gpu_wrong"]
            text = f"{self._version} computes wrongly on the {gpu}: {mistake}"
            return self._fails(text, self.install)
        if "gpu_s" in facts:
            text = f"{self._version}, kernels run on the {gpu} and are right"
            return Finding("torch", WELL, text, figures=facts)
        reason = str(facts.get("gpu_error") or self.reason or "nothing came back")
        text = (
            f"{self._version} loads, but a kernel does not run on the {gpu}: "
            f"{reason.strip().splitlines()[0]}"
        )
        # The most frequent reason on a Jetson: a wheel built for other GPUs.
        if facts["capability"] not in facts["built_for"]:
            text += f"; this torch is built for {' '.join(facts['built_for'])}"
        return self._fails(text, self.install)


def _install(jetson: bool) -> str:
    """Return how to install a torch that fits."""
    if jetson:
        return (
            "install NVIDIA's own wheel for this JetPack (docs/jetson.md has the "
            "table); what 'pip install torch' gives has another CUDA"
        )
    return (
        f"{sys.executable} -m pip install 'torch>=2.5,<2.11' "
        "(on ARM, newer ones bring gigabytes of CUDA)"
    )


def _is_closed() -> bool:
    """Tell whether this is a virtual environment that does not see the system's packages."""
    try:
        config = (Path(sys.prefix) / "pyvenv.cfg").read_text()
    except OSError:
        return False
    return "include-system-site-packages = false" in config


def _ending(code: int) -> str | None:
    """Return how a process ended, by its exit code; None: it was no signal."""
    # A negative code is the number of a signal, as subprocess gives it.
    if code >= 0:
        return None
    hint = " (out of memory?)" if code == _KILLED else ""
    return f"it ends by signal {-code}{hint}"
