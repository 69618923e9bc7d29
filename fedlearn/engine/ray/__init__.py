"""The Ray engine: `engine` deals tasks to a cluster, `actor` works on them, `cluster` connects."""
