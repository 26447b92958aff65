"""Which combinations run: all of them, or a small set that covers every pair of two factors."""

from __future__ import annotations

import random
from collections.abc import Iterator

from hack.census.files import formats_of, packages_of
from hack.census.models import BY_NAME, kinds_of, on_plain_table
from hack.census.tables import FRAMES, SEED
from hack.census.verdicts import Case
from mlmodel_server.registry.rows import ROWS, Row

Pair = tuple[str, str]


def every() -> list[Case]:
    """Return all combinations: what is compiled depends on the model and not on its file, so of the bare files only the
    first format is compiled."""
    cases = []
    for row in ROWS:
        for kind in kinds_of(row):
            for format, packaged in _forms(row):
                if _exists(row, kind, format, packaged):
                    first = row.role != "alone" and (packaged or format == "joblib")
                    cases += [Case(row.name, kind, format, packaged, compile) for compile in (False, True)[: 1 + first]]
    return cases


def pairwise() -> list[Case]:
    """Return a set in which each of these pairs occurs: model and form (format, bare or packaged), model and compiled
    or not, form and kind of table, kind and compiled or not, form and compiled or not, kind and family of models (which
    library, and what it predicts).

    Greedy, with a fixed seed: for every model and form, the kind of table that covers most pairs which are not covered.
    All pairs of a model and a kind of table are left to ``--all``: they are three quarters of the time.
    """
    chosen: list[Case] = []
    covered: set[Pair] = set()
    order = random.Random(SEED)
    for row in ROWS:
        forms = [form for form in _forms(row) if any(_exists(row, kind, *form) for kind in kinds_of(row))]
        compilable = [form for form in forms if form[1] or form[0] in ("joblib", "skops")]
        is_compiled = compilable and row.role != "alone"
        to_compile = compilable[len(chosen) % len(compilable)] if is_compiled else None  # goes round
        for form in forms:
            compile = form == to_compile
            cases = [Case(row.name, kind, *form, compile) for kind in kinds_of(row) if _exists(row, kind, *form)]
            order.shuffle(cases)
            best = max(cases, key=lambda case: len(pairs_of(row, case) - covered))
            chosen.append(best)
            covered |= pairs_of(row, best)
    rest = every()
    order.shuffle(rest)
    for case in sorted(rest, key=lambda case: case.compile):  # to compile takes longer
        new = pairs_of(BY_NAME[case.row], case) - covered
        if new:
            chosen.append(case)
            covered |= new
    return chosen


def pairs_of(row: Row, case: Case) -> set[Pair]:
    """Return the pairs of two factors in a case that :func:`pairwise` covers."""
    form = f"{case.format} {case.packaged}"
    compiled = f"compile {case.compile}"
    family = f"{row.library} {row.role} {row.target} {bool(row.rounds)}"
    return {
        (row.name, form),
        (row.name, compiled),
        (form, case.kind),
        (case.kind, compiled),
        (form, compiled),
        (family, case.kind),
    }


def _forms(row: Row) -> list[tuple[str, bool]]:
    return [*((format, False) for format in formats_of(row)), *((format, True) for format in packages_of(row))]


def _exists(row: Row, kind: str, format: str, packaged: bool) -> bool:
    if packaged or format in ("joblib", "skops", "mlflow"):
        return True
    if format == "onnx":
        return kind not in FRAMES
    return on_plain_table(row, kind)


def chunks(cases: list[Case]) -> Iterator[tuple[str, list[Case]]]:
    """Yield the cases of each row, so that a model is trained once for all its cases."""
    by_row: dict[str, list[Case]] = {}
    for case in cases:
        by_row.setdefault(case.row, []).append(case)
    yield from by_row.items()
