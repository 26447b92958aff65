"""Features of text, dictionaries and images: a matrix is made from the indices of a vocabulary without a check."""

from __future__ import annotations

from typing import Any

from mlmodel_server.formats.trees import Damaged, check_lengths
from mlmodel_server.registry.entry import Forbidden, of
from mlmodel_server.registry.rules import ordered


def check_input(vectorizer: Any) -> None:
    """Reject a vectorizer that would open the files that a request names."""
    if getattr(vectorizer, "input", "content") != "content":
        kind = type(vectorizer)
        raise Forbidden(f"{kind.__module__}.{kind.__name__} with input={str(vectorizer.input)[:20]!r}")


def check_vocabulary(vectorizer: Any) -> None:
    """Check that each term has its own column."""
    check_input(vectorizer)
    vocabulary = vars(vectorizer).get("vocabulary_")
    if vocabulary is not None:
        if not isinstance(vocabulary, dict):
            raise Damaged("it has a vocabulary that is not a dictionary")
        ordered(vocabulary.values(), len(vocabulary))


def check_dictionary(vectorizer: Any) -> None:
    """Check that each feature has its own column."""
    check_vocabulary(vectorizer)
    if "vocabulary_" in vars(vectorizer):
        check_lengths(len(vectorizer.vocabulary_), vectorizer.feature_names_)


ENTRIES = (
    *of("sklearn.feature_extraction._dict_vectorizer", "DictVectorizer", check_dictionary),
    *of("sklearn.feature_extraction._hash", "FeatureHasher"),
    *of("sklearn.feature_extraction.image", "PatchExtractor"),
    *of("sklearn.feature_extraction.text", "CountVectorizer TfidfVectorizer", check_vocabulary),
    *of("sklearn.feature_extraction.text", "HashingVectorizer", check_input),
    *of("sklearn.feature_extraction.text", "TfidfTransformer"),
)
