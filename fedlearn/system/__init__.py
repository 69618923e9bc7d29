"""What the operating system is asked for: files, checksums, memory, failpoints."""
