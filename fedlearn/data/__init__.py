"""Data sets, and how their samples are divided among clients.

`population` gives what an experiment trains on. `DATASETS` and `KINDS` list the names that a
config can use.
"""

from fedlearn.data.partition import KINDS
from fedlearn.data.registry import DATASETS, label_counts, population

__all__ = ["DATASETS", "KINDS", "label_counts", "population"]
