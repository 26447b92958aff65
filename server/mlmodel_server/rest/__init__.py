"""HTTP: connections, endpoints with their wire formats, and the routes that FastAPI answers."""
