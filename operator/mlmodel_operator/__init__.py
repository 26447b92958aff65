"""The MLModel operator: canary rollouts of machine-learning models on evidence."""

__version__ = "0.1.0"
