"""Benchmarks that measure the project and baselines in one run, as ratios. `make bench` runs all of them."""
