"""What is asked of the operating system: files, checksums, memory, failpoints."""
