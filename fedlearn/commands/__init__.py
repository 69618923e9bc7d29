"""The commands of ``fedlearn``, one a file: parse the arguments, check them, call the library."""
