"""How clients are run: one after another, in a pool, in stacks, on a Ray cluster, or by agents."""

from fedlearn.names import Named

__all__ = ["ENGINES"]

# The engines of ``[engine] kind``. None of them changes a result, except that "stacked"
# rounds in another order.
ENGINES = {
    "serial": Named(
        "fedlearn.engine.serial:Serial",
        "one client after another in this process; the readable oracle",
    ),
    "pool": Named(
        "fedlearn.engine.pool:Pool",
        "one process per core, one thread each; the same bits as serial",
    ),
    "stacked": Named(
        "fedlearn.engine.stacked.engine:stacked_engine",
        "many clients in one tensor, on each core or on a GPU; equal but for rounding",
    ),
    "ray": Named(
        "fedlearn.engine.ray.engine:Ray",
        "one process per CPU of a Ray cluster, on many machines; the same bits as serial",
    ),
    "auto": Named(
        "fedlearn.engine.auto:choose",
        "pool or stacked, by a measurement of two seconds at most; the manifest says which",
    ),
}
