"""Naive Bayes."""

from __future__ import annotations

from mlmodel_server.registry.entry import of

ENTRIES = (*of("sklearn.naive_bayes", "BernoulliNB CategoricalNB ComplementNB GaussianNB MultinomialNB"),)
