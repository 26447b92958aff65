"""B-splines: compiled code looks for the knots around a value."""

from __future__ import annotations

from mlmodel_server.registry.entry import of

ENTRIES = (*of("scipy.interpolate._bsplines", "BSpline"),)
