"""Artefacts with one forged number: the server refuses each, or answers as the library does.

``python -m tests.fuzz`` fits a small model of every class in the registry, changes one array, number or list in its
file, and opens and predicts it in child processes: see :mod:`.run`.
"""
