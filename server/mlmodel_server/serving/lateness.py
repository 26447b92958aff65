"""What a client reads when its deadline cannot be met: the deadline, how long it takes, and how to allow more time."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, log10

from mlmodel_server.engine.batching import MARGIN, Late, Overloaded

IN_A_CLUSTER = "spec.traffic.timeoutSeconds of the MLModel"
"""The field that becomes ``--timeout``; the router has the same limit."""


@dataclass(frozen=True)
class Limit:
    """Who set the deadline of a request. ``name`` is what allows the time, ``raised`` says how to allow more, with
    ``{ms}`` or ``{s}`` for the time."""

    name: str
    raised: str


SERVER = Limit("--timeout of the server", f"raise --timeout to {{s}} s or more (in a cluster {IN_A_CLUSTER})")


def explained(late: Late, allowed: float, limit: Limit) -> Overloaded:
    """Return the error for a request that had ``allowed`` seconds by this limit.

    If the prediction alone takes longer, a retry does not help, and the error has no time to wait.
    """
    rows = "1 row" if late.rows == 1 else f"{late.rows} rows"
    milliseconds = ceil(allowed * 1000 - 1e-6)
    if late.alone >= allowed:
        fewer = "" if late.rows == 1 else ", or send fewer rows"
        return Overloaded(
            f"predicting {rows} takes about {_enough(late.alone)} ms, and {limit.name} allows {milliseconds} ms: "
            f"{_raised(limit, late.alone)}{fewer}",
            503,
            late.reason,
            retry_after=0,
        )
    return Overloaded(
        f"the server is busy: this request takes about {_enough(max(late.needed, allowed))} ms now, and {limit.name} "
        f"allows {milliseconds} ms: retry after {late.retry_after} s, or {_raised(limit, max(late.needed, allowed))}",
        503,
        late.reason,
        late.retry_after,
    )


def _raised(limit: Limit, seconds: float) -> str:
    enough = _enough(seconds * MARGIN)
    return limit.raised.format(ms=enough, s=f"{enough / 1000:g}")


def _enough(seconds: float) -> int:
    """Return the next greater number of milliseconds with at most two significant digits."""
    milliseconds = max(1, ceil(seconds * 1000 - 1e-6))
    unit: int = 10 ** max(0, floor(log10(milliseconds)) - 1)
    return ceil(milliseconds / unit) * unit
