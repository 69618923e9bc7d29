"""Releases: packages that are made of runs, and the registry that keeps them."""
