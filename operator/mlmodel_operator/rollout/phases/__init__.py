"""One module per phase: when the phase ends, and which follows."""
