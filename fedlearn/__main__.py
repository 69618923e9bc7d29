"""The command ``fedlearn``: its subcommands are the modules of `fedlearn.commands`."""

from __future__ import annotations

import importlib
import sys

import fedlearn
from fedlearn.commands.arguments import ended
from fedlearn.errors import UserError
from fedlearn.names import nearest

# Subcommand → (module, about). A module is imported when its command is given, so that
# `fedlearn enroll` loads nothing of a simulation.
COMMANDS = {
    "simulate": (
        "fedlearn.simulate",
        "run an experiment with simulated clients on this machine",
    ),
    "run": ("fedlearn.commands.run", "run a Flower app, whole and unchanged"),
    "new": (
        "fedlearn.commands.new",
        "write a Flower app that is an experiment too, to begin with",
    ),
    "reproduce": (
        "fedlearn.commands.reproduce",
        "run experiments, and compare them with what is claimed",
    ),
    "tune": (
        "fedlearn.commands.tune",
        "look for good values of an experiment's keys, by many short runs",
    ),
    "compress": (
        "fedlearn.commands.compress",
        "make a trained model smaller, and measure it beside the original",
    ),
    "serve": ("fedlearn.commands.serve", "run an experiment over real agents"),
    "status": (
        "fedlearn.commands.status",
        "tell how a run is doing, while it goes on and after",
    ),
    "replay": (
        "fedlearn.commands.replay",
        "recompute a run over agents from its journal",
    ),
    "agent": ("fedlearn.agent", "take part in a run with the data of this device"),
    "infer": (
        "fedlearn.commands.infer",
        "answer with a model on this device, or compute a batch",
    ),
    "collect": (
        "fedlearn.commands.collect",
        "take devices' answers from an MQTT broker, each once",
    ),
    "place": (
        "fedlearn.commands.place",
        "say where requests are best computed: here, at the centre, or on both",
    ),
    "doctor": ("fedlearn.commands.doctor", "look at this device, and say what to mend"),
    "bundle": (
        "fedlearn.commands.bundle",
        "make an archive with which a board without a network installs its agent",
    ),
    "pki": (
        "fedlearn.commands.pki",
        "make the authority that coordinator and agents trust",
    ),
    "token": ("fedlearn.commands.token", "make a one-time token for an agent"),
    "enroll": ("fedlearn.commands.enroll", "redeem a token on a device"),
    "revoke": ("fedlearn.commands.revoke", "take a client's certificates away"),
    "package": (
        "fedlearn.commands.package",
        "make a run's model a package that any device can check, and look at one",
    ),
    "sign": ("fedlearn.commands.sign", "sign a package, or make the key for it"),
    "registry": (
        "fedlearn.commands.registry",
        "serve packages over HTTPS, for other devices and for CI",
    ),
    "release": (
        "fedlearn.commands.release",
        "release a run's model as a difference, and say which version is stable",
    ),
    "fleet": (
        "fedlearn.commands.fleet",
        "let agents attend for good, and roll releases out to their devices",
    ),
    "rollout": (
        "fedlearn.commands.rollout",
        "bring a package to a fleet's devices, wave by wave, and back",
    ),
    "learn": (
        "fedlearn.commands.learn",
        "have a fleet learn again, when time, samples or drift ask for it",
    ),
    "scenario": (
        "fedlearn.commands.scenario",
        "play a story from the life of a model on this machine, and draw it",
    ),
    "report": ("fedlearn.commands.report", "draw a run's report, or compare runs"),
    "export": (
        "fedlearn.commands.export",
        "write a trained model for another runtime, proven equal",
    ),
    "inspect": (
        "fedlearn.commands.inspect",
        "tell what a payload is, and where its bytes go",
    ),
    "predict": (
        "fedlearn.commands.predict",
        "answer for samples of a file with the model of a run",
    ),
    "schema": (
        "fedlearn.commands.schema",
        "print what a config may say, as a JSON schema for editors",
    ),
    "data": ("fedlearn.commands.data", "fetch and list data sets"),
}


def main(argv: list[str] | None = None) -> int:
    """Hand the arguments to a subcommand and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    return ended(lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    """Run a subcommand; raises UserError for a name that is none."""
    # `fedlearn help COMMAND` is `fedlearn COMMAND --help`.
    if arguments[:1] == ["help"] and len(arguments) > 1:
        arguments = [arguments[1], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        _print_help()
        return 0
    name = arguments[0]
    if name in ("-V", "--version"):
        print(f"fedlearn {fedlearn.__version__}")
        return 0
    if name not in COMMANDS:
        raise UserError(
            f"unknown command '{name}'.{nearest(name, COMMANDS)} "
            f"Known: {', '.join(COMMANDS)}"
        )
    module, _ = COMMANDS[name]
    exit_code: int = importlib.import_module(module).main(arguments[1:])
    return exit_code


def _print_help() -> None:
    print("usage: fedlearn COMMAND …\n")
    print(
        f"fedlearn {fedlearn.__version__}: federated learning on Flower's strategies\n"
    )
    for name, (_, about) in COMMANDS.items():
        print(f"  {name:<12}{about}")
    print("\nfedlearn help COMMAND tells more")


if __name__ == "__main__":
    sys.exit(main())
