"""Wire formats. Nothing here knows what a model is: bytes in, tensors out, and back."""
