"""Claims about experiments: reading them, running what they need, judging them, and what is written of it."""
