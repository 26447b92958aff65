"""Measurements side by side with baselines in one run, as ratios. `make bench` runs them all."""
