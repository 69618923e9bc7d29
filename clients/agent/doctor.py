"""What the device's doctor finds, told to the coordinator that asks for it.

``fedlearn doctor`` looks, in a process of its own and without torch: an agent that waits stays
small, and what hangs there holds up nothing here. One question is answered at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable

from fedlearn.clients.agent.options import AgentSettings
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.findings import (
    FINDING_STATES,
    DeviceFinding,
    diagnosis_frame,
)

# Seconds that a look may take: a way to the coordinator that hangs takes the longest.
LOOK_S = 60.0

# Seconds for which findings are news: a coordinator that asks all the time costs little.
FRESH_S = 10.0

REFUSED = "its owner does not let the coordinator ask ([agent] diagnose = no)"


class Doctor:
    """See the module. ``send`` takes a frame for the coordinator."""

    def __init__(
        self, settings: AgentSettings, send: Callable[[pb.AgentFrame], None]
    ) -> None:
        """Take the owner's decisions."""
        self._settings = settings
        self._send = send
        # The newest question.
        self._number = 0
        self._look: asyncio.Task[None] | None = None
        self._findings: list[DeviceFinding] = []
        self._reason = ""
        self._fresh_until_s = float("-inf")

    def heard(self, frame: pb.CoordinatorFrame) -> None:
        """Take a frame; all but a question change nothing."""
        if frame.WhichOneof("frame") != "diagnose":
            return
        self._number = frame.diagnose.number
        if not self._settings.diagnose:
            self._send(diagnosis_frame(self._number, [], REFUSED))
        elif time.monotonic() < self._fresh_until_s:
            self._answer()
        # A look that is under way answers the newest question.
        elif self._look is None or self._look.done():
            self._look = asyncio.create_task(self._examine())

    async def stop(self) -> None:
        """End a look that is under way."""
        if self._look is not None:
            self._look.cancel()
            await asyncio.gather(self._look, return_exceptions=True)

    def _answer(self) -> None:
        self._send(diagnosis_frame(self._number, self._findings, self._reason))

    async def _examine(self) -> None:
        """Look at the device, and answer."""
        self._findings = []
        self._reason = ""
        try:
            output = await self._output()
            self._findings = _findings(output)
        except asyncio.TimeoutError:
            self._reason = f"its doctor took more than {LOOK_S:g} s"
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._reason = (
                f"its doctor cannot be asked: {type(error).__name__}: {error}"
            )
        self._fresh_until_s = time.monotonic() + FRESH_S
        self._answer()

    async def _output(self) -> bytes:
        """Return what the doctor prints. Raises OSError, TimeoutError."""
        settings = self._settings
        words = ["--json", "--no-torch", "--state", str(settings.state)]
        words += ["--coordinator", settings.coordinator]
        if settings.insecure:
            words.append("--insecure")
        if settings.file is not None:
            words += ["--settings", str(settings.file)]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "fedlearn", "doctor", *words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), LOOK_S)
            return output
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


def _findings(output: bytes) -> list[DeviceFinding]:
    """Return the findings in what a doctor printed. Raises ValueError, KeyError, TypeError."""
    findings = []
    for check in json.loads(output)["checks"]:
        if check["state"] not in FINDING_STATES:
            raise ValueError(f"a finding is '{check['state']}'")
        texts = (str(check[key]) for key in ("name", "state", "text", "fix"))
        findings.append(DeviceFinding(*texts))
    return findings
