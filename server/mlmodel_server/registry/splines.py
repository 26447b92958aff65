"""B-splines: compiled code looks for the knots around a value, and reads the coefficients beside them."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlmodel_server.formats.trees import Damaged
from mlmodel_server.registry.entry import of
from mlmodel_server.registry.rules import OUT_OF_RANGE, dense, whole_number

_MAX_DEGREE = 1_000


def check_spline(spline: Any) -> None:
    """Check what the constructor of a spline checks, which a file does not call."""
    state = vars(spline)
    knots = dense(state.get("_t", state.get("t")), None)  # without the underscore before scipy 1.17
    coefficients = state.get("_c", state.get("c"))
    dense(coefficients, *[None] * np.ndim(coefficients), kinds="fc")
    degree = whole_number(spline.k, 0, _MAX_DEGREE)
    count = len(knots) - degree - 1
    sound = (
        knots.dtype == np.float64
        and coefficients.dtype in (np.float64, np.complex128)
        and coefficients.flags.c_contiguous
        and count >= degree + 1
        and coefficients.ndim >= 1
        and len(coefficients) >= count
        and spline.extrapolate in (True, False, "periodic")
        and np.isfinite(knots).all()
        and (np.diff(knots) >= 0).all()
        and knots[degree] < knots[count]
    )
    if not sound or whole_number(spline.axis, 0, coefficients.ndim - 1) != 0:
        raise Damaged(OUT_OF_RANGE)
    maker = getattr(spline, "_asarray", None)
    if maker is not None and getattr(maker, "__name__", "") != "asarray":
        raise Damaged("it replaces a method of BSpline")


ENTRIES = (*of("scipy.interpolate._bsplines", "BSpline", check_spline),)
