"""The command ``fedlearn``: its subcommands are ``python -m fedlearn.<name>`` each."""

from __future__ import annotations

import importlib
import sys

import fedlearn
from fedlearn.arguments import ended
from fedlearn.errors import UserError
from fedlearn.names import nearest

COMMANDS = {
    "simulate": ("fedlearn.simulate", "run an experiment with simulated clients on this machine"),
    "reproduce": ("fedlearn.reproduce", "run experiments, and compare them with what is claimed"),
    "tune": ("fedlearn.tune", "look for good values of an experiment's keys, by many short runs"),
    "serve": ("fedlearn.serve", "run an experiment over real agents"),
    "status": ("fedlearn.status", "tell how a run is doing, while it goes on and after"),
    "replay": ("fedlearn.replay", "recompute a run over agents from its journal"),
    "agent": ("fedlearn.agent", "take part in a run with the data of this device"),
    "doctor": ("fedlearn.doctor", "look at this device, and say what to mend"),
    "bundle": ("fedlearn.bundle", "make an archive with which a board without a network installs its agent"),
    "pki": ("fedlearn.pki", "make the authority that coordinator and agents trust"),
    "token": ("fedlearn.token", "make a one-time token for an agent"),
    "enroll": ("fedlearn.enroll", "redeem a token on a device"),
    "revoke": ("fedlearn.revoke", "take a client's certificates away"),
    "report": ("fedlearn.report", "draw a run's report, or compare runs"),
    "inspect": ("fedlearn.inspect", "tell what a payload is, and where its bytes go"),
    "data": ("fedlearn.data.__main__", "fetch and list data sets"),
}


def main(argv: list[str] | None = None) -> int:
    """Hand the arguments to a subcommand and return its exit code."""
    return ended(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: fedlearn COMMAND …\n\nfedlearn {fedlearn.__version__}: federated learning on Flower's strategies\n")
        print("\n".join(f"  {name:<12}{about}" for name, (_, about) in COMMANDS.items()))
        print("\nfedlearn COMMAND --help tells more")
        return 0
    if arguments[0] == "--version":
        print(f"fedlearn {fedlearn.__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        raise UserError(f"unknown command '{arguments[0]}'.{nearest(arguments[0], COMMANDS)} Known: {', '.join(COMMANDS)}")
    run = importlib.import_module(COMMANDS[arguments[0]][0]).main
    code: int = run(arguments[1:])
    return code


if __name__ == "__main__":
    sys.exit(main())
