"""Load a model from a URI into memory. Only this package opens model files, and only :mod:`.trust` parses them."""
