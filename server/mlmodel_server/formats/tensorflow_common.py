"""What the formats of TensorFlow have in common."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.opened import DATATYPES
from mlmodel_server.formats.table import library
from mlmodel_server.tensors import Array, TensorSpec


def tensorflow(threads: int) -> Any:
    """TensorFlow, kept to ``threads`` threads and without its messages."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    tensorflow = library("tensorflow")
    try:
        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:  # it runs already, in a process that has opened a model before
        pass
    return tensorflow


@contextmanager
def directory(files: Mapping[str, bytes]) -> Iterator[Path]:
    """A private directory with ``files``, for a library that reads nothing but paths; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="mlmodel-") as name:
        top = Path(name)
        for file, data in files.items():
            path = (top / file).resolve()
            if not path.is_relative_to(top.resolve()):
                raise RefusedModel(f"{file[:80]!r} leads out of the model's directory: save the model again")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        yield top


def array_of(tensor: Any) -> Array:
    """A tensor as an array; text, which TensorFlow has as bytes, as text."""
    array: Array = tensor.numpy()
    if array.dtype != object:
        return array
    texts = np.array([text.decode("utf-8", "replace") for text in array.ravel()], object)
    return texts.reshape(array.shape)


def spec_of(name: str, datatype: str, shape: Any, file: str) -> TensorSpec:
    """A tensor of the model, as the protocol describes it."""
    if datatype not in DATATYPES or shape is None:
        raise RefusedModel(
            f"{file}: {name} is of the type {datatype}, which the protocol cannot carry: "
            f"save the model with one of {', '.join(DATATYPES)}, and of known rank"
        )
    return TensorSpec(name, DATATYPES[datatype], tuple(-1 if size is None else int(size) for size in shape))
