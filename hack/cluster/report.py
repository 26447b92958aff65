"""Output for the user: progress lines with the elapsed time, and errors that contain what to do."""

import sys
import time
from pathlib import Path

_STARTED = time.monotonic()


class ClusterError(Exception):
    """An error that the user can correct; its text is one sentence, sometimes followed by the end of a log."""


def progress(text: str) -> None:
    """Print one line of progress on standard error, with the seconds since the program started."""
    print(f"{time.monotonic() - _STARTED:6.1f}s  {text}", file=sys.stderr, flush=True)


def tail(path: Path, lines: int = 20) -> str:
    """Return the last `lines` lines of a log, or a remark that it does not exist."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return f"(no log at {path})"
    return "\n".join(text.splitlines()[-lines:])
