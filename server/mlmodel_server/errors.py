"""What can go wrong, as types; each carries one sentence that a user can act on.

The command lines turn them into exit codes, the HTTP layer into status codes; nothing else catches broadly.
"""

from __future__ import annotations


class MLModelError(Exception):
    """Base of every error whose text is meant for a user."""


class UsageError(MLModelError):
    """An argument is wrong; the sentence says what to give instead. Command-line exit code 2."""


class RefusedModel(MLModelError):
    """This model can never work: wrong digest, refused global, unreadable file, failed self-test. Exit code 3."""


class UnreachableSource(MLModelError):
    """The model is not there now and may be later: HTTPS error, file not copied yet. Exit code 4."""


class RequestError(MLModelError):
    """A request that gets ``{"error": ...}`` with this HTTP status; the text names the field and holds no payload."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class ModelFailure(MLModelError):
    """The model raised on input that fits its signature: HTTP 500. Holds the type of the exception, never its text,
    because scikit-learn quotes the offending values in it."""


def not_installed(what: str, library: str, extra: str) -> str:
    """Return the sentence for a missing library: what needs it, and the command that installs its ``extra``.

    The project is on no package index, so the command is one for a clone.
    """
    return f"{what} needs {library}, which is not installed: in a clone of the project, run pip install '.[{extra}]'"


EXIT_CODES: dict[type[MLModelError], int] = {UsageError: 2, RefusedModel: 3, UnreachableSource: 4}
"""Of both command lines' processes; 1 is a bug, or a model that crashes its process."""
