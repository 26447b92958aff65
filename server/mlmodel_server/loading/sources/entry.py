"""Find the entry file of a directory."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from mlmodel_server.errors import RefusedModel, UnreachableSource
from mlmodel_server.loading.archive import is_archive
from mlmodel_server.manifest import MANIFEST

MLFLOW = "MLmodel"
SAVED_MODEL = "saved_model.pb"

HEAD_BYTES = 64
"""Number of first bytes of a file from which its format is detected."""

_SUFFIXES = (
    ".skops", ".joblib", ".pkl", ".pickle", ".onnx", ".ubj", ".pt", ".pt2", ".pth", ".keras"
)  # fmt: skip
_COMMON = {  # other files have these suffixes too, so the content decides
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
    """Return the entry file among ``names``; ``head(name)`` returns the first :data:`HEAD_BYTES` of a file.

    It is a description; without one, the only file that is a model by its name, or else by its content. Raise
    :class:`RefusedModel` if there are several, :class:`UnreachableSource` if there is none.
    """
    for description in (MANIFEST, MLFLOW, SAVED_MODEL):
        if description in names:
            return description
    models = [name for name in names if _by_name(name, head)] or [name for name in names if _CONTENT.match(head(name))]
    if len(models) == 1:
        return models[0]
    if models:
        raise RefusedModel(
            f"the source has several models ({', '.join(models[:5])}) but no {MANIFEST}: keep only one model"
        )
    raise UnreachableSource(
        f"the source has no {MANIFEST}, {MLFLOW}, {SAVED_MODEL} or model file such as model.onnx: copy the model to it"
    )


def _by_name(name: str, head: Callable[[str], bytes]) -> bool:
    if name.endswith(_SUFFIXES) or is_archive(name):
        return True
    return any(name.endswith(suffix) and content.match(head(name)) for suffix, content in _COMMON.items())
