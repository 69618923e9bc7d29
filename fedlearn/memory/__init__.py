"""What a run remembers of each client between rounds: vectors, versions and states on disk."""
