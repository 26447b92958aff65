"""One registry of the classes that a model may contain."""
