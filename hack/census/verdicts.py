"""A combination of the census, and the verdict on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Outcome = Literal["right", "refused", "wrong", "false reason", "example fails", "inapplicable", "not saved"]
"""``refused`` says why in its reason. ``inapplicable``: the library cannot train this class on this table. ``not
saved``: the library has no such file of this model. ``example fails``: ready, and fails the request that it offers."""

FAULTS: tuple[Outcome, ...] = ("wrong", "false reason", "example fails")


class Case(NamedTuple):
    """One combination."""

    row: str
    kind: str
    format: str
    packaged: bool
    compile: bool


@dataclass(frozen=True)
class Verdict:
    """The outcome of a case, and its reason in one sentence. ``compiled``: the compiled model served; else ``why``
    not, "" if it was not tried. ``lacking``: outputs of the library that are not served."""

    outcome: Outcome
    reason: str = ""
    compiled: bool = False
    why: str = ""
    lacking: tuple[str, ...] = ()
