"""Report phrases that docs/style.md bans: ``python -m hack.words``, part of ``make lint``.

It reads Markdown outside of code, docstrings, comments and strings of Python, and all of the other text files. It is a
floor, not the guide: a sentence without these phrases can still be hard to read.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hack import ROOT, tracked

SUFFIXES = {".md", ".py", ".js", ".html", ".lua", ".cfg", ".yaml", ".toml", ".sh"}
EXTRA = {"Makefile", "Dockerfile", "run"}
# The page of attacks has the names of tests, which name what they test in the words of their code.
SKIPPED = (
    "docs/style.md",
    "docs/reference/attacks.md",
    "hack/words.py",
    "tests/unit/hack/test_words.py",
    "LICENSE",
    "requirements/",
)

BANNED: dict[str, str] = {
    "tell, hear": r"(?<!\.)\b(?:told|tells?|telling|hears?|heard)\b(?!\()",
    "is no X": r"\b(?:is|are|was|were) no (?!longer\b|more than\b|less than\b|item named\b)[a-z]",
    "whoever, whatever": r"\b(?:whoever|whatever|whichever)\b",
    "asked of": r"\basked of\b",
    "on its way": r"\bon (?:its|the) way (?:in|out)\b",
    "leave, leaving": r"(?<![`\"])\bleaving\b",  # in quotes it is a field of status format 1
    "has ended": r"\b(?:has|have|had) ended\b",
    "word for machines": r"\bfor (?:people|machines)\b",
    "filler": r"\b(?:at all|by itself|by themselves|of (?:its|their) own)\b",
    "may be had": r"\b(?:be|to be) had\b",
    "second chance": r"\bsecond chances?\b",
    "hot, cold, long or short way": r"\b(?:(?:short|long) way|cold routes?|hot path)\b",
    "nobody": r"\b(?:nobody|nobody's)\b",
}


_PATTERNS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in BANNED.items()}


def banned(path: Path) -> Iterator[tuple[int, str, str, str]]:
    """Yield line number, line, kind and phrase of each banned phrase in what people read in a file."""
    text = path.read_text(encoding="utf-8")
    if not any(pattern.search(text) for pattern in _PATTERNS.values()):
        return  # as in nearly all files: reading their tokens takes longer
    for number, line in _readable(path, text):
        for name, pattern in _PATTERNS.items():
            for phrase in pattern.findall(line):
                yield number, line, name, phrase


def _readable(path: Path, text: str) -> Iterator[tuple[int, str]]:
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


def has_sentences(path: Path) -> bool:
    """Whether the check covers a file."""
    name = path.relative_to(ROOT).as_posix()
    return not name.startswith(SKIPPED) and (path.suffix in SUFFIXES or path.name in EXTRA)


def main() -> int:
    """Print every place, and the counts to stderr; return 1 if there is one."""
    counts: Counter[str] = Counter()
    for path in filter(has_sentences, tracked()):
        for number, line, name, phrase in banned(path):
            counts[name] += 1
            print(f"{path.relative_to(ROOT)}:{number}: {name} ({phrase.strip()}): {line.strip()[:100]}")
    for name, count in counts.most_common():
        print(f"{count:5} {name}", file=sys.stderr)
    return 1 if counts else 0


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m hack.words", description=__doc__).parse_args()
    sys.exit(main())
