"""What runs in the peers' own environments: none of it knows the project."""
