"""Fail if a Markdown file of the repository links to a file or heading that does not exist."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from hack import ROOT, tracked

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
CODE = re.compile(r"```.*?```", re.DOTALL)


def anchors(text: str) -> set[str]:
    """Return the anchors of a page, as GitHub generates them."""
    found = (re.sub(r"[^\w\- ]", "", title.lower()) for title in HEADING.findall(CODE.sub("", text)))
    return {title.strip().replace(" ", "-") for title in found}


def broken(page: Path) -> list[str]:
    """Return one sentence for each broken link of the page."""
    problems = []
    for target in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            problems.append(f"{page.relative_to(ROOT)}: {target} does not exist")
        elif anchor and anchor not in anchors(file.read_text(encoding="utf-8")):
            problems.append(f"{page.relative_to(ROOT)}: {target} has no such heading")
    return problems


def main() -> int:
    """Check every page; return 1 if a link is broken."""
    pages = tracked("*.md")
    problems = [problem for page in pages for problem in broken(page)]
    print("\n".join(problems) or f"{len(pages)} pages, no broken link")
    return 1 if problems else 0


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m hack.links", description=__doc__).parse_args()
    sys.exit(main())
