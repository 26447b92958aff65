"""Tests that run in environments of their own, started by ``test_formats.py``: pytest doesn't collect them by name."""
