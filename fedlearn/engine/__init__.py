"""The simulation engine: many clients on one machine, below Flower's Grid."""

from fedlearn.names import Named

__all__ = ["ENGINES"]

ENGINES = {
    "serial": Named("fedlearn.engine.serial:Serial", "one client after another in this process; the readable oracle"),
    "pool": Named("fedlearn.engine.pool:Pool", "one process per core, one thread each; the same bits as serial"),
}
"""The engines of ``[engine] kind``; none of them changes a result."""
