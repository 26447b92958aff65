"""The model behind the protocols: a function on tensors, its queue and its cost."""
