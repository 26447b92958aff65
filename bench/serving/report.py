"""The report as Markdown: tables of figures, and a table of claims with their bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """One figure and its bound."""

    what: str
    value: float
    bound: float
    unit: str
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether the figure is on the right side of its bound."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def cells(self) -> list[str]:
        """Return its row of the table."""
        bound = f"{'≥' if self.at_least else '≤'} {number(self.bound)} {self.unit}"
        return [self.what, f"{number(self.value)} {self.unit}", bound, "met" if self.met else "**missed**"]


@dataclass(frozen=True)
class Part:
    """One section: a table of figures and the claims about them; or in ``missing`` the reason for their absence."""

    title: str
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    claims: Sequence[Claim] = ()
    missing: str = ""


def number(value: float) -> str:
    """Return a number with about three significant digits and thousands separators."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is text, the others are figures."""
    rule = ["---", *["--:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *rows])


def markdown(parts: Sequence[Part], machine: str) -> str:
    """Return the whole report, claims first."""
    claims = [claim.cells() for part in parts for claim in part.claims]
    claims += [[part.title, "not measured", "", ""] for part in parts if part.missing]
    blocks = ["# Serving", machine, table(["what", "measured", "must be", ""], claims)]
    for part in parts:
        blocks.append(f"## {part.title}")
        blocks.append(part.missing or table(part.header, part.rows))
    return "\n\n".join(blocks)
