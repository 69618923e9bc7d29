"""One run from its config to its folder: parts, settings, engines, rounds."""
