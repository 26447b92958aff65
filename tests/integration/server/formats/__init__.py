"""Tests that ``test_formats.py`` runs in separate environments; pytest does not collect them by name."""
