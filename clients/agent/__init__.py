"""Attending a run: the stream to the coordinator, its tasks, and the files that outlive them."""
