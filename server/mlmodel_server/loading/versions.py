"""Which version of scikit-learn saved a file that this one cannot read."""

from __future__ import annotations

import re
from importlib.metadata import version

_SAVED = re.compile(rb"_sklearn_version.{1,200}?(\d{1,2}\.\d{1,3}(?:\.\d{1,3})?)", re.DOTALL)
"""Each estimator notes it in its state: in a pickle directly before its text, in skops' schema in the JSON of a node.
"""


def saved_with(content: bytes) -> str:
    """Return the version in the unpacked content of a file; "" if it does not say so, or this is the installed one."""
    match = _SAVED.search(content)
    found = match[1].decode() if match else ""
    return "" if found == version("scikit-learn") else found


def advice(saved: str) -> str:
    """Return what to do about a file that scikit-learn ``saved`` wrote, as the end of a sentence."""
    return (
        f"it was saved with scikit-learn {saved}, and this server has {version('scikit-learn')}: train the model again "
        "with that version, or serve it with an image that has the version that saved it"
    )
