"""What runs in the middle: rounds, evaluation, checkpoints."""
