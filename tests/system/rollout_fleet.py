"""A coordinator of releases and its devices, as processes that tests start and kill."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from fedlearn.commands import sign
from fedlearn.package import keys
from fedlearn.release import rollouts
from fedlearn.release.rollouts import RolloutOptions
from tests.clients.device import releases

ROOT = Path(__file__).parents[2]
SETTINGS = """\
[agent]
coordinator = 127.0.0.1:{port}
client = {client}
insecure = yes
state = state

[releases]
accept = small
keys = ../keys/release.pem
watch_s = 1
ready_s = 60
starts = {starts}
"""


class Fleet:
    """A coordinator and its devices in one folder; the first one serves, or none."""

    def __init__(
        self, folder: Path, devices: int = 2, starts: int = 3, serves: bool = True
    ):
        self.folder = folder
        self.devices = [f"d{client}" for client in range(devices)]
        self.processes: dict[str, subprocess.Popen] = {}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        for keys_folder in ("keys", "strangers"):
            sign.main(["--new-key", str(folder / keys_folder)])
        for client in range(devices):
            device = folder / f"d{client}"
            device.mkdir()
            text = SETTINGS.format(port=self.port, client=client, starts=starts)
            if client == 0 and serves:
                text += f"serve = --unix {folder / 's'} --name small\n"
            (device / "agent.ini").write_text(text)

    def start(self, name: str, **environment: str) -> None:
        words = ["fleet", str(self.folder / "fleet"), "--insecure"]
        words += ["--port", str(self.port)]
        if name != "fleet":
            settings = self.folder / name / "agent.ini"
            words = ["agent", "--settings", str(settings)]
        with open(self.folder / f"{name}.out", "ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "fedlearn", *words],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **environment},
            )

    def kill(self, name: str) -> None:
        """Kill a process and all that it started, as a power cut does."""
        process = self.processes.pop(name)
        # A failpoint may have been faster, and left nobody of its group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def package(
        self, counter: int, is_golden: bool = True, signer: str = "keys"
    ) -> Path:
        place = self.folder / f"p{counter}"
        releases.write(place, counter, is_golden)
        sign.main([str(place), "--key", str(self.folder / signer / "release.key")])
        return place

    def roll_out(self, package: Path, signer: str = "keys") -> None:
        key = keys.read(self.folder / signer / "release.pem")
        options = RolloutOptions(shares=(0.5, 1.0), silence_s=90.0, key=key)
        rollouts.start(self.folder / "fleet", package, options)

    def status(self):
        return rollouts.status(self.folder / "fleet")

    def wait(self, condition, what: str) -> None:
        """Wait for a condition; no clock is judged, a hang ends in pytest's own limit."""
        while not condition():
            for name, process in self.processes.items():
                out = (self.folder / f"{name}.out").read_text()
                assert process.poll() is None, f"{what}: {name} ended: {out}"
            time.sleep(0.2)

    def wait_for(self, phase: str) -> None:
        def is_there():
            status = self.status()
            has_ended = status.get("phase") in ("done", "withdrawn", "aborted")
            # After a recall it may be "done" for a moment.
            is_other = has_ended and status["phase"] not in (phase, "done")
            assert not is_other, status
            return status.get("phase") == phase and not status["unsettled"]

        self.wait(is_there, phase)

    def served(self) -> str:
        """Return the version that the first device answers with."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.folder / "s"))
        inputs = [{"name": "x", "shape": [1, 6], "datatype": "FP32", "data": [0] * 6}]
        body = json.dumps({"inputs": inputs})
        connection.request("POST", "/v2/models/small/infer", body)
        reply = json.loads(connection.getresponse().read())
        connection.close()
        return reply["model_version"]

    def end(self) -> None:
        for name in list(self.processes):
            self.kill(name)
