"""From an opened estimator to a function on tensors."""
