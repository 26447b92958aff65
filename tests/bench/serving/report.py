"""What was measured, as Markdown: tables of figures, and of what is claimed beside what it must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Claim:
    """One figure with its bound; ``value`` None when it was not measured."""

    what: str
    value: float | None
    bound: float
    unit: str
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether the figure is on the right side of its bound."""
        return self.value is not None and (self.value >= self.bound if self.at_least else self.value <= self.bound)

    def cells(self) -> list[str]:
        """Its line of the table."""
        if self.value is None:
            shown, verdict = "not measured", ""
        else:
            shown, verdict = f"{number(self.value)} {self.unit}", "" if self.met else "**missed**"
        return [self.what, shown, f"{'≥' if self.at_least else '≤'} {number(self.bound)} {self.unit}", verdict]


@dataclass(frozen=True)
class Part:
    """One section: a table of figures, and the claims that follow from them."""

    title: str
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    claims: Sequence[Claim] = ()
    notes: Sequence[str] = field(default=())


def number(value: float) -> str:
    """Three significant digits, thousands apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are figures."""
    rule = ["---", *["--:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *rows])


def markdown(parts: Sequence[Part], machine: str) -> str:
    """The whole report: claims first."""
    claims = [claim.cells() for part in parts for claim in part.claims]
    blocks = ["# Serving", machine, table(["what", "measured", "must be", ""], claims)]
    for part in parts:
        blocks.append(f"## {part.title}")
        if part.rows:
            blocks.append(table(part.header, part.rows))
        blocks += part.notes
    return "\n\n".join(blocks)
