"""Statistics on what the pods counted: pure, and with all state in a few floats."""
