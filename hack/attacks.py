"""The attack cases: tests with the mark ``attack``. ``python -m hack.attacks`` prints docs/reference/attacks.md.

The name of a test is the sentence of its case. ``@pytest.mark.attack(held=True)`` says that the case held when its
test was written; without it the test was written with the repair. Tests are read and not imported: that takes 0.2 s.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from hack import ROOT

TESTS = ROOT / "tests"
SECURITY = ROOT / "SECURITY.md"
_NAMED = re.compile(r"`([a-z0-9_/]+\.py)::(test_\w+)`")

_HEAD = """# Attacks

Generated from the tests with the mark `attack` by `make generate`. `make test-attack` runs them all and prints which
cases hold; every test runs in `make test` too. [SECURITY.md](../../SECURITY.md) names the test of each promise.

*Held before* is *yes* if the case held when its test was written, and *no* if the test came with the repair.
"""


@dataclass(frozen=True)
class Case:
    """One test function; ``file`` is relative to ``tests/``, and ``about`` the first sentence of the file."""

    file: str
    test: str
    held: bool
    about: str

    @property
    def sentence(self) -> str:
        """What the attacker tries, and what comes of it."""
        return self.test.removeprefix("test_").replace("_", " ")

    @property
    def key(self) -> str:
        """The name of the test as in SECURITY.md."""
        return f"{self.file}::{self.test}"


def cases(tests: Path = TESTS) -> list[Case]:
    """Return all cases, by file and in their order there."""
    files = sorted(path for path in tests.rglob("test_*.py") if "mark.attack" in path.read_text("utf-8"))
    return [case for path in files for case in _in_file(path, path.relative_to(tests).as_posix())]


def _in_file(path: Path, file: str) -> Iterator[Case]:
    tree = ast.parse(path.read_text("utf-8"))
    about = (ast.get_docstring(tree) or file).splitlines()[0].partition(": ")[0].rstrip(".")
    whole = [found for node in tree.body if _assigns_marks(node) for found in _marks(node)]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            found = [mark for decorator in node.decorator_list for mark in _marks(decorator)] or whole
            if found:
                yield Case(file, node.name, found[0], about)


def _assigns_marks(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and [ast.unparse(one) for one in node.targets] == ["pytestmark"]


def _marks(node: ast.AST) -> Iterator[bool]:
    """Yield for each mark ``attack`` in the node whether it says ``held=True``."""
    calls = {id(call.func): call for call in ast.walk(node) if isinstance(call, ast.Call)}
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and ast.unparse(part) == "pytest.mark.attack":
            call = calls.get(id(part))
            yield call is not None and any(one.arg == "held" for one in call.keywords)


def named(markdown: str) -> list[str]:
    """Return the tests that a page names, as ``FILE::TEST`` with the file relative to ``tests/``."""
    return [f"{match[1]}::{match[2]}" for match in _NAMED.finditer(markdown)]


def problems(security: str, known: Sequence[Case]) -> list[str]:
    """Return a sentence for each promise of SECURITY.md without a test that exists and has the mark."""
    keys = {case.key for case in known}
    found = [
        f"SECURITY.md names {key}, which is not a test with the mark attack"
        for key in named(security)
        if key not in keys
    ]
    for line in security.partition("## Attackers")[2].partition("## Known gaps")[0].splitlines():
        is_promise = line.startswith("| ") and not line.startswith("| promised") and not set(line) <= set("|-")
        if is_promise and not named(line):
            found.append(f"SECURITY.md names no test of: {line.split('|')[1].strip()}")
    return found


def page(known: Sequence[Case]) -> str:
    """Return the reference page as Markdown."""
    parts = [_HEAD]
    for file, group in groupby(known, key=lambda case: case.file):
        listed = list(group)
        parts.append(f"\n## {listed[0].about}\n\n`tests/{file}`\n\n| case | held before |\n|---|---|\n")
        parts += [f"| {case.sentence} | {'yes' if case.held else 'no'} |\n" for case in listed]
    return "".join(parts)


def table(outcomes: Mapping[str, Sequence[str]], known: Sequence[Case]) -> list[str]:
    """Return a line for each case; ``outcomes`` has those of all variants of a test, by its key."""
    lines = []
    for case in known:
        got = outcomes.get(case.key, ())
        lines.append(f"{verdict(got):8} {len(got):4}  {'yes' if case.held else 'no':4} {case.sentence}  [{case.file}]")
    return lines


def verdict(outcomes: Sequence[str]) -> str:
    """Return "yes" if every variant passed, "no" if one failed, else "not run"."""
    if "failed" in outcomes:
        return "no"
    return "yes" if "passed" in outcomes and set(outcomes) <= {"passed", "skipped"} else "not run"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the page; with ``--check`` the problems of SECURITY.md."""
    parser = argparse.ArgumentParser(prog="python -m hack.attacks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="check that SECURITY.md names a test of each promise")
    given = parser.parse_args(argv)
    known = cases()
    if not given.check:
        print(page(known), end="")
        return 0
    found = problems(SECURITY.read_text("utf-8"), known)
    print("\n".join(found) or f"{len(known)} attack cases, a test of each promise")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
