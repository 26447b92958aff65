"""One module per phase: when it ends, and into what."""
