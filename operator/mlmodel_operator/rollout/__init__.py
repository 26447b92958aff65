"""The rollout decision. Pure: no I/O, no clock, no Kubernetes client."""
