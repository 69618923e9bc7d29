"""What a device's owner decides for the agent, by options or in the settings file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedlearn.clients.agent.pipe import NO_APPS, AppRules
from fedlearn.clients.agent.release_settings import ReleaseSettings
from fedlearn.clients.agent.room import PAYLOAD_BYTES
from fedlearn.clients.device.rules import NO_RULES, Rules
from fedlearn.clients.device.sysfiles import ROOT


@dataclass(frozen=True)
class AgentSettings:
    """What the device's owner decides."""

    # HOST:PORT.
    coordinator: str
    client: int
    # The folder of identity, models and answers.
    state: Path
    # "auto", a file.npz, or an import path.
    data: str = "auto"
    # Without TLS.
    insecure: bool = False
    # See `fedlearn.clients.agent.pipe.Limits`.
    epochs: int = 0
    steps: int = 0
    allow: tuple[str, ...] = ()
    # Of Flower apps.
    app_rules: AppRules = NO_APPS
    # End when standard input does, that is, with the process that started this agent.
    end_with_input: bool = False
    # Of all tasks and answers: a bound on what the coordinator can have this device hold.
    most_bytes: int = PAYLOAD_BYTES
    rules: Rules = NO_RULES
    # None: it installs no releases.
    releases: ReleaseSettings | None = None
    # Whether the coordinator may ask what a doctor finds here.
    diagnose: bool = True
    # The owner's file, None: there is none.
    file: Path | None = None
    # Where the device is read; a test writes a folder.
    root: Path = ROOT
