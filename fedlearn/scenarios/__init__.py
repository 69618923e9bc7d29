"""Stories from the life of a model, each played by real processes on this machine."""
