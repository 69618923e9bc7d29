"""Releases: packages that are made of runs."""
