"""Features of text, dictionaries and images: a matrix is made from the indices of a vocabulary without a check."""

from __future__ import annotations

import re
from typing import Any

from mlmodel_server.formats.trees import Damaged, check_lengths
from mlmodel_server.registry.entry import Forbidden, of
from mlmodel_server.registry.rules import ordered, whole_number

MAX_FEATURES = 1 << 24
"""Maximum features of a text that is hashed: a step may make a dense row of them."""

MAX_NGRAM = 100
"""Maximum length of an n-gram: with n of them at each place of a text, memory would grow with the square of its length.
"""

_ITEM = r"(?:\\[wWdDsS]|\\[^\w]|\[\^?(?:[^\[\]\\]|\\.)+\]|[\w ,;@#&'-])"
_TOKEN = rf"(?:\\b)?\(?{_ITEM}{{1,12}}(?:[+*]|\{{\d{{1,3}}(?:,\d{{0,3}})?\}})?\)?(?:\\b)?"
_PATTERN = re.compile(rf"(?:\(\?u\))?{_TOKEN}(?:\|{_TOKEN}){{0,7}}")
"""Patterns of tokens in which only the last character is repeated. Others may take time that grows exponentially with
the length of a text."""


def check_input(vectorizer: Any) -> None:
    """Reject a vectorizer that would open the files that a request names."""
    if getattr(vectorizer, "input", "content") != "content":
        kind = type(vectorizer)
        raise Forbidden(f"{kind.__module__}.{kind.__name__} with input={str(vectorizer.input)[:20]!r}")
    lowest, highest = getattr(vectorizer, "ngram_range", (1, 1))
    whole_number(highest, whole_number(lowest, 1, MAX_NGRAM), MAX_NGRAM)
    pattern = getattr(vectorizer, "token_pattern", None)
    if pattern is not None and not _PATTERN.fullmatch(str(pattern)):
        raise Damaged("it has a token_pattern that may take very long: repeat only the last character of a token")


def check_hashing(vectorizer: Any) -> None:
    """Check the number of features too: no array limits it."""
    check_input(vectorizer)
    whole_number(getattr(vectorizer, "n_features", 1), 1, MAX_FEATURES)


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
    *of("sklearn.feature_extraction._hash", "FeatureHasher", check_hashing),
    *of("sklearn.feature_extraction.image", "PatchExtractor"),
    *of("sklearn.feature_extraction.text", "CountVectorizer TfidfVectorizer", check_vocabulary),
    *of("sklearn.feature_extraction.text", "HashingVectorizer", check_hashing),
    *of("sklearn.feature_extraction.text", "TfidfTransformer"),
)
