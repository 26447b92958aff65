"""Programs that run in the environments of the peers; they do not import the project."""
