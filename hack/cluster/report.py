"""What the user sees: progress lines with the time that has passed, and errors that say what to do."""

import sys
import time
from pathlib import Path

_STARTED = time.monotonic()


class ClusterError(Exception):
    """Something that the user can put right; its text is one sentence, then perhaps the end of a log."""


def say(text: str) -> None:
    """Print one line of progress on standard error, with the seconds since the program started."""
    print(f"{time.monotonic() - _STARTED:6.1f}s  {text}", file=sys.stderr, flush=True)


def tail(path: Path, lines: int = 20) -> str:
    """Return the last `lines` lines of a log, or a remark that there is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return f"(no log at {path})"
    return "\n".join(text.splitlines()[-lines:])
