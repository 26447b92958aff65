"""Scripts that ask a server with other people's clients, unmodified and with their defaults.

Each runs in the environment of its client: it gets what to ask as JSON in its argument, and prints what it was
answered, by case, as JSON. mypy cannot see those clients.
"""
