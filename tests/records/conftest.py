"""The fixtures of small run folders, for the tests of this folder."""

from tests.runfolder import lines, write

__all__ = ["lines", "write"]
