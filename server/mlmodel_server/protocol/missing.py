"""The parameter ``missing`` of an input, for transports whose elements cannot be null: binary tensors and gRPC.

Its value is the places of the missing elements, counted from 0 in row-major order, such as ``"0,17"``, or one place as
an integer. The tensor has any element in these places, such as an empty text. They become what null is in JSON: NaN
among floating-point numbers, and else None.
"""

from __future__ import annotations

import re

import numpy as np

from mlmodel_server.errors import RequestError
from mlmodel_server.tensors import Array, Parameters, quoted

NAME = "missing"
_PLACES = re.compile(r"\d{1,12}(?:,\d{1,12})*", re.ASCII)


def applied(name: str, array: Array, parameters: Parameters) -> Array:
    """Return the elements of the input ``name``, with those missing that its parameter lists."""
    if NAME not in parameters:
        return array
    places = _places(name, parameters, array.size)
    # A copy: an array that was sent as binary data is read-only.
    changed: Array = np.array(array, array.dtype if array.dtype.kind == "f" else object, order="C")
    changed.reshape(-1)[places] = np.nan if changed.dtype.kind == "f" else None
    return changed


def _places(name: str, parameters: Parameters, size: int) -> list[int]:
    value = parameters[NAME]
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _PLACES.fullmatch(text):
        raise RequestError(
            f"input {quoted(name)}: the parameter {NAME} must be the places of the missing elements from 0, with "
            "commas between them, such as '0,17'"
        )
    if text.count(",") >= max(size, 1):
        raise RequestError(f"input {quoted(name)}: the parameter {NAME} has more places than the {size} elements")
    places = [int(place) for place in text.split(",")]
    if max(places) >= size:
        raise RequestError(f"input {quoted(name)}: the parameter {NAME} has the place {max(places)} of {size} elements")
    return places
