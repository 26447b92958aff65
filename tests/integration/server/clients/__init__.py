"""Scripts that send requests with clients of other projects, unmodified and with their defaults.

Each runs in the environment of its client. Its argument describes server and request as JSON; it prints the outputs, by
case, as JSON. mypy cannot see these clients.
"""
