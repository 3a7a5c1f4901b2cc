"""The command line: the program, what its commands share, and this distribution's own."""
