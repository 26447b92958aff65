"""Wire formats: bytes to tensors and back. This package knows nothing of models."""
