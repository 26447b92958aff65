"""Statistics on the counters of pods and routers: pure functions."""
