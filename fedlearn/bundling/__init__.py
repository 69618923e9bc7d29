"""What ``fedlearn bundle`` is made of: our own wheel, the wheels of another machine, and the archive. For the connected machine alone."""
