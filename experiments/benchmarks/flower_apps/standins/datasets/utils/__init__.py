"""Of the stand-in for `datasets`."""
