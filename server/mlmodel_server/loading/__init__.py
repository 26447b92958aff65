"""From a URI to a model in memory. Only this package opens model files, and only :mod:`.trust` parses them."""
