"""The result of compiling a model."""

from __future__ import annotations

from typing import Literal

import msgspec

DECISIVE = 3.0
"""Factor by which ONNX must be faster so that no CPU reverses the result."""


class Unsupported(Exception):
    """The estimator cannot be converted. The text says why and becomes the verdict's reason."""


class Times(msgspec.Struct, frozen=True):
    """Medians in microseconds for one call with this many rows."""

    rows_1: float
    rows_64: float


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which model to serve, and why. It is in the model's metadata, the log and ``mlmodel.json``."""

    chosen: Literal["onnx", "original"]
    reason: str
    """A phrase, to follow a colon."""
    onnx_us: Times | None = None
    original_us: Times | None = None
    rows: int = 0
    """Rows whose predictions were compared."""
    deviation: float = 0.0
    """The greatest relative difference between two numbers that were accepted as the same."""
    ops: tuple[str, ...] = ()
    """The operations of the ONNX graph, most frequent first."""

    @property
    def decisive(self) -> bool:
        """Whether ONNX is so much faster that no other CPU has to time it again."""
        return self.chosen == "onnx" and self._factor() >= DECISIVE

    def _factor(self) -> float:
        if not self.onnx_us or not self.original_us:
            return 0.0
        return min(
            self.original_us.rows_1 / self.onnx_us.rows_1,
            self.original_us.rows_64 / self.onnx_us.rows_64,
        )

    def sentence(self) -> str:
        """Return one line for the log."""
        if self.chosen == "original":
            line = f"not compiled: {self.reason}"
        else:
            line = f"compiled to ONNX: {self.reason}, same predictions for {self.rows:,} rows"
        if not self.onnx_us or not self.original_us:
            return line
        return (
            f"{line}; 1 row: ONNX {self.onnx_us.rows_1:,.1f} us, original {self.original_us.rows_1:,.1f} us;"
            f" 64 rows: ONNX {self.onnx_us.rows_64:,.1f} us, original {self.original_us.rows_64:,.1f} us"
        )
