"""The v2 datatypes of numpy's types."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlmodel_server.tensors import Array, are_rounded_twice, datatype_of, is_changed, is_rounded_twice

SEED = 20261130


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


@pytest.mark.parametrize("count", [1, 100])
@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_integers_that_a_float_holds_are_known_in_arrays_of_any_size(count: int, dtype: Any) -> None:
    integers: Array = np.zeros(count, dtype)
    for value, changed in ((0, False), (2**53, False), (2**53 + 1, True), (2**62, False), (2**63 - 1, True)):
        integers[-1] = value
        assert is_changed(integers, "FP64") is changed
    for value, changed in ((2**24 + 1, False), (2**53 + 1, False), (2**60 + 2**36, False), (2**60 + 2**36 + 1, True)):
        integers[-1] = value
        assert are_rounded_twice(integers) is changed


def test_one_integer_is_rounded_twice_if_an_array_of_it_is() -> None:
    random = np.random.default_rng(SEED)
    found = 0
    for bits in range(54, 64):
        for top in random.integers(1 << 24, 1 << 25, 200).tolist():  # 25 bits: the middle of two numbers if it is odd
            for integer in (top << (bits - 25), (top << (bits - 25)) + int(random.integers(-600, 600))):
                for signed in (integer, -integer):
                    twice = are_rounded_twice(np.array(signed))
                    assert is_rounded_twice(signed, float(signed)) is twice, signed
                    found += twice
    assert found > 100, f"seed {SEED}"
