"""The verdicts of the census in one file, from which the page is made and with which the tests compare fresh ones.

``results.tsv`` has the versions of the libraries, the reasons with their numbers, and a line for each model and kind of
table: the name of the model, the kind, and for each form the outcome. ``joblib=right+3`` is a model in a joblib file
that answers right, and was not compiled for reason 3; ``package-skops=right*`` one in a package that was compiled.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hack.census.verdicts import Case, Outcome, Verdict

FILE = Path(__file__).with_name("results.tsv")

LIBRARIES = ("scikit-learn", "xgboost-cpu", "lightgbm", "numpy", "pandas", "onnxruntime", "skl2onnx", "skops", "joblib")

Results = dict[Case, Verdict]

_CODES: dict[Outcome, str] = {
    "right": "right",
    "refused": "refused",
    "wrong": "WRONG",
    "false reason": "FALSE",
    "example fails": "FAILS",
    "inapplicable": "none",
    "not saved": "unsaved",
}
_OUTCOMES = {code: outcome for outcome, code in _CODES.items()}
_CELL = re.compile(r"(package-)?(\w+)(,compile)?=(\w+)(\*?)(?:\+(\d+))?")


def versions() -> dict[str, str]:
    """Return the installed versions of the libraries."""
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def shortened(verdict: Verdict) -> Verdict:
    """Return the verdict as it is kept: numbers in its reason differ from machine to machine."""
    reason = verdict.reason or verdict.why
    return Verdict(verdict.outcome, re.sub(r"\[.*?\]|-?\d[\d.,e+-]*", "…", reason)[:240].strip(), verdict.compiled)


def write(results: Results, known: dict[str, str]) -> None:
    """Write the file."""
    reasons = sorted({verdict.reason for verdict in results.values() if verdict.reason})
    number = {reason: index for index, reason in enumerate(reasons, 1)}
    lines = [f"version\t{library}\t{text}" for library, text in known.items()]
    lines += [f"reason\t{index}\t{reason}" for reason, index in number.items()]
    cells: dict[tuple[str, str], list[str]] = {}
    for case, verdict in results.items():
        cells.setdefault((case.row, case.kind), []).append(_cell(case, verdict, number))
    lines += [f"{row}\t{kind}\t{' '.join(sorted(found))}" for (row, kind), found in sorted(cells.items())]
    FILE.write_text("\n".join(lines) + "\n", "utf-8")


def _cell(case: Case, verdict: Verdict, number: dict[str, int]) -> str:
    form = f"{'package-' if case.packaged else ''}{case.format}{',compile' if case.compile else ''}"
    reason = f"+{number[verdict.reason]}" if verdict.reason else ""
    return f"{form}={_CODES[verdict.outcome]}{'*' if verdict.compiled else ''}{reason}"


def read() -> tuple[Results, dict[str, str]]:
    """Return the verdicts, and the versions of the libraries with which they were found."""
    results: Results = {}
    known, reasons = {}, {}
    for line in FILE.read_text("utf-8").splitlines() if FILE.exists() else ():
        first, second, third = line.split("\t")
        if first == "version":
            known[second] = third
        elif first == "reason":
            reasons[second] = third
        else:
            for cell in third.split(" "):
                match = _CELL.fullmatch(cell)
                assert match, f"{FILE.name} has the cell {cell}: write it with python -m hack.census run"
                package, format, compile, code, star, reason = match.groups()
                case = Case(first, second, format, bool(package), bool(compile))
                results[case] = Verdict(_OUTCOMES[code], reasons.get(reason or "", ""), bool(star))
    return results, known
