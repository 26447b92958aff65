"""What came of compiling a model."""

from __future__ import annotations

from typing import Literal

import msgspec

DECISIVE = 3.0
"""Times faster at which another CPU will not turn the result round."""


class Unsupported(Exception):
    """This estimator has no ONNX form here; the text says why, and becomes the verdict's reason."""


class Times(msgspec.Struct, frozen=True):
    """Medians in microseconds for one call with this many rows."""

    rows_1: float
    rows_64: float


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which of the two serves, and why. Goes into the model's metadata, the log and ``mlmodel.json``."""

    chosen: Literal["onnx", "original"]
    reason: str
    """Half a sentence."""
    onnx_us: Times | None = None
    original_us: Times | None = None
    rows: int = 0
    """Rows whose answers were compared."""
    deviation: float = 0.0
    """The greatest relative difference between two numbers that counted as the same."""
    ops: tuple[str, ...] = ()
    """The operations of the ONNX graph, most frequent first."""

    @property
    def decisive(self) -> bool:
        """Is ONNX so much faster that no other CPU needs to time it again?"""
        return self.chosen == "onnx" and self._factor() >= DECISIVE

    def _factor(self) -> float:
        if not self.onnx_us or not self.original_us:
            return 0.0
        return min(
            self.original_us.rows_1 / self.onnx_us.rows_1,
            self.original_us.rows_64 / self.onnx_us.rows_64,
        )

    def sentence(self) -> str:
        """One line for the log."""
        if self.chosen == "original":
            line = f"not compiled: {self.reason}"
        else:
            line = f"compiled to ONNX: {self.reason}, {self.rows:,} rows answered alike"
        if not self.onnx_us or not self.original_us:
            return line
        return (
            f"{line}; 1 row {self.onnx_us.rows_1:,.1f} us, was {self.original_us.rows_1:,.1f};"
            f" 64 rows {self.onnx_us.rows_64:,.1f} us, was {self.original_us.rows_64:,.1f}"
        )
