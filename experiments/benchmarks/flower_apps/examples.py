"""The examples of Flower that are compared, and what each needs to run on two cores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# The key by which all of them name their rounds.
ROUNDS_KEY = "num-server-rounds"

# Stands for the folder of a small language model in a run config.
LOCAL_MODEL = "LOCAL_MODEL"


@dataclass(frozen=True)
class Example:
    """One folder of Flower's examples.

    config: changes of its run config, as `fedlearn run --run-config` has them.
    node_config: keys of each node, by its partition-id. needs: packages that it imports
    besides torch, numpy and what is stood in for. is_drawn_anew: whether it draws from a
    generator that no seed reaches.
    """

    nodes: int = 4
    config: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    node_config: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    is_drawn_anew: bool = False


# Few nodes and few steps: what is compared does not depend on their number.
EXAMPLES = {
    "quickstart-pytorch": Example(),
    "custom-mods": Example(),
    "advanced-pytorch": Example(nodes=8),
    "opacus": Example(nodes=2, needs=("opacus", "tqdm")),
    "quickstart-sklearn": Example(needs=("sklearn",)),
    "quickstart-numpy": Example(),
    "fl-tabular": Example(needs=("pandas", "sklearn")),
    "federated-vae": Example(nodes=3),
    "embedded-devices": Example(
        nodes=2,
        node_config={0: {"dataset-path": "first"}, 1: {"dataset-path": "second"}},
    ),
    "quickstart-xgboost": Example(
        config={"fraction-train": 1.0, "fraction-evaluate": 1.0},
        needs=("xgboost",),
    ),
    "xgboost-comprehensive": Example(needs=("xgboost",)),
    "quickstart-pandas": Example(needs=("pandas",)),
    "vertical-fl": Example(nodes=3, needs=("pandas", "sklearn")),
    # SecAgg+ makes its keys from the system's generator.
    "flower-secure-aggregation": Example(nodes=5, is_drawn_anew=True),
    "quickstart-pytorch-lightning": Example(nodes=2, needs=("pytorch_lightning",)),
    "quickstart-huggingface": Example(
        nodes=3,
        config={
            "model-name": LOCAL_MODEL,
            "fraction-train": 1.0,
            "fraction-evaluate": 1.0,
        },
        needs=("transformers",),
    ),
}
