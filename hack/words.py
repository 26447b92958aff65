"""Phrases that docs/style.md bans, wherever somebody reads them: ``python -m hack.words`` prints each with its place.

It looks at Markdown, at docstrings, comments and strings of Python, and at the whole of the other text files. Code in
backquotes and code blocks are left out, so that a page may quote a phrase.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUFFIXES = {".md", ".py", ".js", ".html", ".lua", ".cfg", ".yaml", ".toml", ".sh"}
EXTRA = {"Makefile", "Dockerfile", "run"}
SKIPPED = ("docs/style.md", "hack/words.py", "LICENSE", "requirements/")

BANNED: dict[str, str] = {
    "tell, hear": r"\b(?:told|tells?|telling|hears?|heard)\b",
    "is no X": r"\b(?:is|are|was|were) no (?!longer\b|more than\b|less than\b)[a-z]",
    "whoever, whatever": r"\b(?:whoever|whatever|whichever)\b",
    "asked of": r"\basked of\b",
    "on its way": r"\bon (?:its|the) way (?:in|out)\b",
    "leave, leaving": r"\bleaving\b",
    "has ended": r"\b(?:has|have|had) ended\b",
    "word for machines": r"\bfor (?:people|machines)\b",
    "filler": r"\b(?:at all|by itself|by themselves|of (?:its|their) own)\b",
    "may be had": r"\b(?:be|to be) had\b",
    "second chance": r"\bsecond chances?\b",
    "hot, cold, long or short way": r"\b(?:(?:short|long) way|cold routes?|hot path)\b",
    "nobody": r"\b(?:nobody|nobody's)\b",
}


def readable(path: Path) -> Iterator[tuple[int, str]]:
    """Line number and text of what people read in a file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type in (tokenize.STRING, tokenize.COMMENT):
                for offset, line in enumerate(token.string.splitlines()):
                    yield token.start[0] + offset, line
        return
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if path.suffix == ".md" and line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, re.sub(r"`[^`]*`", "", line) if path.suffix == ".md" else line


def tracked() -> list[Path]:
    """Files of the repository that hold sentences."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    return [
        ROOT / name
        for name in names
        if not name.startswith(SKIPPED) and (Path(name).suffix in SUFFIXES or Path(name).name in EXTRA)
    ]


def main() -> int:
    """Print every place; return 1 when there is one."""
    counts: Counter[str] = Counter()
    patterns = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in BANNED.items()}
    for path in tracked():
        for number, line in readable(path):
            for name, pattern in patterns.items():
                for found in pattern.findall(line):
                    counts[name] += 1
                    print(f"{path.relative_to(ROOT)}:{number}: {name} ({found.strip()}): {line.strip()[:100]}")
    for name, count in counts.most_common():
        print(f"{count:5} {name}", file=sys.stderr)
    return 1 if counts else 0


if __name__ == "__main__":
    sys.exit(main())
