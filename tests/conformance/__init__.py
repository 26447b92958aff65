"""Tests of the Open Inference Protocol, for any server: see README.md."""
