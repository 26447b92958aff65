"""Common code of TensorFlow's formats."""

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
    """Import TensorFlow, limited to ``threads`` threads and without its log."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    tensorflow = library("tensorflow")
    try:
        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:  # TensorFlow is already initialised: this process has opened a model before
        pass
    return tensorflow


@contextmanager
def directory(files: Mapping[str, bytes]) -> Iterator[Path]:
    """Provide ``files`` in a private temporary directory, for a library that only reads paths."""
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
    """Return a tensor as an array, with bytes decoded to text; those that are not UTF-8 have surrogates then, which no
    response accepts."""
    array: Array = tensor.numpy()
    if array.dtype != object:
        return array
    texts = np.array([text.decode("utf-8", "surrogateescape") for text in array.ravel()], object)
    return texts.reshape(array.shape)


def spec_of(name: str, datatype: str, shape: Any, file: str) -> TensorSpec:
    """Return the specification of a tensor of the model."""
    if datatype not in DATATYPES or shape is None:
        raise RefusedModel(
            f"{name} in {file} has the type {datatype} or an unknown rank, which the protocol does not have: "
            f"save the model with one of the types {', '.join(DATATYPES)}, and with a known rank"
        )
    return TensorSpec(name, DATATYPES[datatype], tuple(-1 if size is None else int(size) for size in shape))
