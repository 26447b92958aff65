"""The v2 datatypes of numpy's types."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlmodel_server.tensors import datatype_of


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("<f8", "FP64"),
        (">f8", "FP64"),
        (">i2", "INT16"),
        ("?", "BOOL"),
        ("<U3", "BYTES"),
        (">U3", "BYTES"),
        ("S3", "BYTES"),
        ("O", "BYTES"),
        ("M8[s]", "BYTES"),
        (np.dtypes.StringDType(), "BYTES"),
    ],
)
def test_every_type_has_a_datatype(dtype: Any, expected: str) -> None:
    assert datatype_of(np.dtype(dtype)) == expected
