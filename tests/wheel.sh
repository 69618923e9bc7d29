#!/bin/sh
# Install the built wheel in a new environment and use it from another folder, with the sources out of reach.
set -eu
wheel=$(realpath "$1")
constraints=$(realpath constraints.txt)
notebook=$(realpath tests/system/test_notebook.py)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python=${PYTHON:-python3}

# The edge's share: no torch, no flwr, and it imports.
"$python" -m venv base
base/bin/python -m pip install --quiet --constraint "$constraints" "$wheel"
base/bin/python -c 'import fedlearn.wire, fedlearn.codec, fedlearn.plan; from fedlearn.data import population; population("digits", {}, {}, 0)'
base/bin/fedlearn --version
base/bin/fedlearn new app
base/bin/python -m fedlearn.simulate && { echo "simulate without the extra must fail"; exit 1; } || test $? -eq 2

# The simulation's share.
"$python" -m venv sim
sim/bin/python -m pip install --quiet --constraint "$constraints" "$wheel[sim]"
sim/bin/fedlearn simulate --quiet --out run --set experiment.rounds=2 --set expect.accuracy=0.15
sim/bin/fedlearn reproduce --list | grep -q fleet-twin
sim/bin/fedlearn run app --quiet --out app-run --run-config num-server-rounds=2
sim/bin/fedlearn simulate app/experiment.toml --quiet --out app-experiment --set experiment.rounds=2
sim/bin/python - <<'END'
import fedlearn, json, pathlib, sys
assert "site-packages" in fedlearn.__file__, fedlearn.__file__
assert json.loads(pathlib.Path("run/summary.json").read_text())["rounds"] == 2
assert pathlib.Path("run/report.html").stat().st_size > 10_000
for name in ("clients", "server", "strategies", "experiments", "tests"):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f"'{name}' is importable: the wheel must install one top-level name")
END
# The notebook's share: a class of a cell, its run, and Ctrl-C in a cell, in an empty folder.
sim/bin/python -m pip install --quiet --constraint "$constraints" "$wheel[sim,notebook]" \
    nbclient nbformat pytest pytest-timeout
cp "$notebook" test_notebook.py
sim/bin/python -m pytest -q -p no:cacheprovider test_notebook.py
echo "wheel: ok"
