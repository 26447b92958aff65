"""HTTP: connections, inference endpoints with their wire formats, and all other routes."""
