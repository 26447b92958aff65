"""Features of text, dictionaries and images."""

from __future__ import annotations

from typing import Any

from mlmodel_server.registry.entry import Forbidden, of


def check_input(vectorizer: Any) -> None:
    """Reject a vectorizer that would open the files that a request names."""
    if getattr(vectorizer, "input", "content") != "content":
        raise Forbidden(
            f"{type(vectorizer).__module__}.{type(vectorizer).__name__} with input={str(vectorizer.input)[:20]!r}"
        )


ENTRIES = (
    *of("sklearn.feature_extraction._dict_vectorizer", "DictVectorizer"),
    *of("sklearn.feature_extraction._hash", "FeatureHasher"),
    *of("sklearn.feature_extraction.image", "PatchExtractor"),
    *of(
        "sklearn.feature_extraction.text",
        "CountVectorizer HashingVectorizer TfidfTransformer TfidfVectorizer",
        check_input,
    ),
)
