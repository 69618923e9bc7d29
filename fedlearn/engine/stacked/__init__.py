"""Many clients in one tensor: `engine` hands out stacks, `train` trains one by `rules`."""
