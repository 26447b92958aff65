"""The page ``docs/reference/models.md``, from the verdicts that are kept. It imports no library of models."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from hack.census import results
from hack.census.tables import DESCRIPTIONS, NUMERIC
from hack.census.verdicts import FAULTS, Case, Verdict
from mlmodel_server.registry.rows import ROWS, Row

HEAD = """# Models

Which models of scikit-learn, XGBoost and LightGBM are served. `python -m hack.census page` writes this page from
[the verdicts of the census](../../hack/census/results.tsv). The census trains small models of every class on {kinds}
kinds of tables, saves each in every format, serves it, and compares each answer with the library's, row by row and
output by output. Labels must be equal, and numbers equal in every bit to an answer of the library: for some models it
rounds the last bit differently for another layout of the table in memory, and for one row than for many. Numbers of a
compiled model may differ by [what the compiler accepts](../explanation/server.md#verified-compile). `make census` runs
all combinations; the tests run a set that covers the pairs of two factors.

Versions: {versions}.

| figure | value |
|---|---|
{figures}
"""

LEGEND = """
## How to read the tables

**yes**: each answer of each combination was right. A number refers to a [reason](#reasons). **package** is what
`package.save` writes. **compiled** is whether the compiled model was the same as the original; whether it is also
faster is decided on your CPU. Models that take only finite numbers were trained on tables with missing values, texts or
categories after steps that prepare these columns, in one pipeline.

The kinds of tables are {kinds}.
"""

FORMS = (("joblib", "joblib"), ("skops", "skops"), ("mlflow", "MLflow"))
OWN = {
    "sklearn": (("onnx", "ONNX"),),
    "xgboost": (("json", "JSON"), ("ubj", "UBJSON")),
    "lightgbm": (("text", "text"),),
}
SECTIONS = (
    ("scikit-learn: models that predict", "sklearn", "predictor"),
    ("scikit-learn: steps of a pipeline", "sklearn", "step"),
    ("scikit-learn: transformers, neighbours and densities alone", "sklearn", "alone"),
    ("XGBoost", "xgboost", "predictor"),
    ("LightGBM", "lightgbm", "predictor"),
)


def page() -> str:
    """Return the page."""
    found, versions = results.read()
    cases: defaultdict[str, results.Results] = defaultdict(dict)
    for case, verdict in found.items():
        cases[case.row][case] = verdict
    notes: dict[str, int] = {}
    sections = [_section(title, library, role, cases, notes) for title, library, role in SECTIONS]
    kinds = "; ".join(f"`{kind}`: {text}" for kind, text in DESCRIPTIONS.items())
    head = HEAD.format(
        kinds=len(DESCRIPTIONS),
        versions=", ".join(f"{library} {version}" for library, version in versions.items()),
        figures="\n".join(f"| {name} | {value} |" for name, value in figures(found)),
    )
    reasons = "\n".join(f"{number}. {reason}" for reason, number in notes.items())
    parts = [head, LEGEND.format(kinds=kinds), *sections, _not_served(), f"## Reasons\n\n{reasons}\n"]
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def figures(found: results.Results) -> list[tuple[str, str]]:
    """Return the figures of the census, by name."""
    outcomes = Counter(verdict.outcome for verdict in found.values())
    served, refused = served_classes(found)
    numeric = [verdict for case, verdict in found.items() if case.compile and case.kind in NUMERIC and _predicts(case)]
    tried = [verdict for verdict in numeric if verdict.outcome == "right"]
    compiled = sum(verdict.compiled for verdict in tried)
    share = f"{len(served)} of {len(served) + len(refused)} ({len(served) / max(1, len(served) + len(refused)):.0%})"
    rest = f"; not: {', '.join(refused)}" if refused else ""
    return [
        ("combinations", f"{len(found):,}"),
        ("right", f"{outcomes['right']:,}"),
        ("refused, with a reason that is true", f"{outcomes['refused']:,}"),
        ("wrong answers", f"{outcomes['wrong']:,}"),
        ("refused for a reason that is false", f"{outcomes['false reason']:,}"),
        ("ready, but fails its own example", f"{outcomes['example fails']:,}"),
        ("not possible with the library itself", f"{outcomes['inapplicable'] + outcomes['not saved']:,}"),
        ("classes of scikit-learn that predict, transform or score, and are served", share + rest),
        ("models of numbers that are compiled", f"{compiled} of {len(tried)} ({compiled / max(1, len(tried)):.0%})"),
    ]


def served_classes(found: results.Results) -> tuple[list[str], list[str]]:
    """Return the classes of scikit-learn that predict, transform or score: those that answer right from joblib and
    skops files and from packages, with no refusal on a table of numbers; and the others. A model that skops cannot save
    is packaged as joblib."""
    bad, good = set(), set()
    paths = {row.name: row.path for row in ROWS if row.library == "sklearn" and row.role in ("predictor", "alone")}
    for case, verdict in found.items():
        if case.row in paths and case.format in ("joblib", "skops"):
            if verdict.outcome == "right":
                good.add(paths[case.row])
            elif case.packaged and verdict.reason.endswith("use format='joblib'"):
                continue
            elif verdict.outcome in FAULTS or (verdict.outcome == "refused" and case.kind in NUMERIC):
                bad.add(paths[case.row])
    names = sorted({path.rpartition(".")[2]: path for path in paths.values()}.items())
    served = [name for name, path in names if path in good - bad]
    return served, [name for name, path in names if path not in good - bad]


def _predicts(case: Case) -> bool:
    return case.row in _PREDICTORS


_PREDICTORS = {row.name for row in ROWS if row.role == "predictor"}


def _section(title: str, library: str, role: str, cases: Mapping[str, results.Results], notes: dict[str, int]) -> str:
    forms = [*FORMS, *OWN[library]]
    lines = [
        f"## {title}\n",
        f"| model | {' | '.join(name for _, name in forms)} | package | compiled |",
        f"|---|{'---|' * (len(forms) + 2)}",
    ]
    for row in ROWS:
        if row.library == library and row.role == role:
            lines.append(f"| {_line(row, cases[row.name], [form for form, _ in forms], notes)} |")
    return "\n".join(lines) + "\n"


def _line(row: Row, cases: results.Results, forms: list[str], notes: dict[str, int]) -> str:
    cells = [f"`{row.name}`"]
    for form in forms:
        cells.append(_cell((v for c, v in cases.items() if c.format == form and not c.packaged), notes))
    cells.append(_cell((v for c, v in cases.items() if c.packaged), notes))
    tried = [v for c, v in cases.items() if c.compile and v.outcome == "right"]
    whys = sorted({verdict.reason for verdict in tried if not verdict.compiled and verdict.reason})
    marks = ["yes"] if any(verdict.compiled for verdict in tried) else []
    cells.append(", ".join([*marks, *(str(_note(why, notes)) for why in whys)]) or "–")
    return " | ".join(cells)


def _cell(verdicts: Iterable[Verdict], notes: dict[str, int]) -> str:
    listed = [verdict for verdict in verdicts if verdict.outcome != "inapplicable"]
    marks = ["yes"] if any(verdict.outcome == "right" for verdict in listed) else []
    for verdict in listed:
        if verdict.outcome in ("refused", *FAULTS):
            sign = "" if verdict.outcome == "refused" else f"**{verdict.outcome}** "
            marks.append(f"{sign}{_note(verdict.reason, notes)}")
    return ", ".join(dict.fromkeys(marks)) or "–"


def _note(reason: str, notes: dict[str, int]) -> int:
    return notes.setdefault(" ".join(reason.split()), len(notes) + 1)


def _not_served() -> str:
    lines = ["## scikit-learn: not served\n", "| class | why |", "|---|---|"]
    lines += [f"| `{row.name}` | {row.reason} |" for row in ROWS if row.role == "other"]
    return "\n".join(lines) + "\n"
