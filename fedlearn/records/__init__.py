"""What a run leaves behind: its folder, written and read."""
