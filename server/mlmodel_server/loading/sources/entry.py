"""With which file a directory begins."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from mlmodel_server.errors import RefusedModel, UnreachableSource
from mlmodel_server.loading.archive import is_archive
from mlmodel_server.manifest import MANIFEST

MLFLOW = "MLmodel"
SAVED_MODEL = "saved_model.pb"

HEAD_BYTES = 64
"""Bytes from the beginning of a file by which its kind is told."""

_SUFFIXES = (
    ".skops", ".joblib", ".pkl", ".pickle", ".onnx", ".ubj", ".pt", ".pt2", ".pth", ".keras"
)  # fmt: skip
_COMMON = {  # suffixes that other files have too: the content decides
    ".json": re.compile(rb'\s*\{\s*"learner"'),
    ".txt": re.compile(rb"tree\r?\n"),
}
_CONTENT = re.compile(
    rb"PK\x03\x04"  # zip: skops, PyTorch, Keras
    rb"|\x80[\x02-\x05]"  # pickle: joblib
    rb"|\x78[\x01\x5e\x9c\xda]|\x1f\x8b|BZh|\xfd7zXZ|\x5d\x00\x00"  # compressed joblib
    rb"|\{L\x00{7}"  # XGBoost in UBJSON
    rb"|tree\r?\n"  # LightGBM
    rb'|\s*\{\s*"learner"'  # XGBoost in JSON
    rb"|\x08[\x03-\x20][\x12\x1a\x22\x2a\x32\x3a\x42]"  # ONNX: the version of the format, then a field of the model
)


def entry_of(names: Sequence[str], head: Callable[[str], bytes]) -> str:
    """The entry among ``names``; ``head(name)`` gives the first :data:`HEAD_BYTES` of a file.

    A description comes first; without one there must be exactly one file that looks like a model, by its name or else
    by its content. :class:`RefusedModel` names several, :class:`UnreachableSource` says what is missing.
    """
    for description in (MANIFEST, MLFLOW, SAVED_MODEL):
        if description in names:
            return description
    models = [name for name in names if _by_name(name, head)] or [name for name in names if _CONTENT.match(head(name))]
    if len(models) == 1:
        return models[0]
    if models:
        raise RefusedModel(f"there are several models ({', '.join(models[:5])}) and no {MANIFEST}: keep one")
    raise UnreachableSource(
        f"there is no {MANIFEST}, {MLFLOW}, {SAVED_MODEL} or model file such as model.onnx there yet: "
        f"copy the model to the source"
    )


def _by_name(name: str, head: Callable[[str], bytes]) -> bool:
    if name.endswith(_SUFFIXES) or is_archive(name):
        return True
    return any(name.endswith(suffix) and content.match(head(name)) for suffix, content in _COMMON.items())
