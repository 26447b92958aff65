"""Metrics, drift, feedback, shadow, payload log and traces of the server."""
