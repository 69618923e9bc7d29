"""What ``fedlearn bundle`` is made of: our own wheel, another machine's wheels, and the archive.

For the connected machine alone: it needs pip, uv and a package registry.
"""
