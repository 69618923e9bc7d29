"""The command ``fedlearn schema``: what a config may say, as a JSON schema for editors."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from fedlearn.commands.arguments import Parser, ended

EPILOG = (
    "An editor with TOML support takes it by a first line in the config: "
    "#:schema ./fedlearn.schema.json"
)


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments, of which there are none."""
    return Parser(
        prog="fedlearn schema",
        description="Print the JSON schema of a config: every key, its meaning, type and "
        "default.",
        epilog=EPILOG,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser().parse_args(argv)
    return ended(_run)


def _run() -> None:
    from fedlearn.config.json_schema import json_schema

    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(main())
