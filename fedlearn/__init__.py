"""Federated learning on Flower's strategies, with compressed updates and one result for one config.

The usual entry points are commands: ``python -m fedlearn.simulate``, ``fedlearn report``, ``fedlearn data``.
"""

from pathlib import Path

__version__ = "0.1.0"
__all__ = ["__version__"]

# clients, server, strategies and experiments are links to the folders beside this one;
# where links were lost (a zip, Windows), look there.
if not Path(__file__).with_name("server").is_dir():
    __path__.append(str(Path(__file__).parents[1]))
