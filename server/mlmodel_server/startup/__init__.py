"""From the command line to a running server: load, choose, assemble, fork, listen, drain."""
