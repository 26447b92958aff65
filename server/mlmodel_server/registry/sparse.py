"""Sparse matrices: compiled code follows their indices without a check.

Only the formats that fitted estimators contain have an entry.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlmodel_server.formats.trees import Damaged
from mlmodel_server.registry.entry import of
from mlmodel_server.registry.rules import OUT_OF_RANGE, check_indices, dense

_NUMBERS = "biufc"


def _shape(matrix: Any) -> tuple[int, ...]:
    shape = matrix.shape
    if (
        type(shape) is not tuple
        or len(shape) not in (1, 2)
        or not all(type(size) is int and size >= 0 for size in shape)
    ):
        raise Damaged("it has a sparse matrix without a valid shape")
    return shape


def check_compressed(matrix: Any) -> None:
    """Check a matrix in compressed rows or columns."""
    shape, (data, indices, starts) = _shape(matrix), (matrix.data, matrix.indices, matrix.indptr)
    major, minor = (1, *shape)[-2:] if matrix.format == "csr" else shape[::-1]
    dense(data, None, kinds=_NUMBERS)
    dense(indices, len(data), kinds="i")
    dense(starts, major + 1, kinds="i")
    if indices.dtype != starts.dtype or indices.dtype.itemsize not in (4, 8):
        raise Damaged("it has a sparse matrix whose indices are not of one type")
    if starts[0] != 0 or starts[-1] != len(data) or (np.diff(starts) < 0).any():
        raise Damaged(OUT_OF_RANGE)
    check_indices(indices, minor)
    matrix.check_format(full_check=True)


def check_coordinates(matrix: Any) -> None:
    """Check a matrix of coordinates and values."""
    shape = _shape(matrix)
    dense(matrix.data, None, kinds=_NUMBERS)
    if type(matrix.coords) is not tuple or len(matrix.coords) != len(shape):
        raise Damaged("it has a sparse matrix without a valid shape")
    for indices, size in zip(matrix.coords, shape, strict=True):
        check_indices(dense(indices, len(matrix.data), kinds="i"), size)


def check_diagonals(matrix: Any) -> None:
    """Check a matrix of diagonals."""
    shape, offsets = _shape(matrix), dense(matrix.offsets, None, kinds="i")
    dense(matrix.data, len(offsets), None, kinds=_NUMBERS)
    if len(np.unique(offsets)) != len(offsets) or (np.abs(offsets) > max(shape)).any():
        raise Damaged(OUT_OF_RANGE)


ENTRIES = (
    *of("scipy.sparse._coo", "coo_array coo_matrix", check_coordinates),
    *of("scipy.sparse._csc", "csc_array csc_matrix", check_compressed),
    *of("scipy.sparse._csr", "csr_array csr_matrix", check_compressed),
    *of("scipy.sparse._dia", "dia_array dia_matrix", check_diagonals),
)
