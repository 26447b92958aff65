"""Errors as types. The text of each is one sentence that a user can act on.

The command lines turn them into exit codes, the HTTP layer into status codes.
"""

from __future__ import annotations


class MLModelError(Exception):
    """Base of every error whose text is meant for a user."""


class UsageError(MLModelError):
    """An argument is wrong. The sentence says what to type instead. Exit code 2."""


class RefusedModel(MLModelError):
    """The model can never work: wrong digest, rejected global, unreadable file, failed self-test. Exit code 3."""


class Unreadable(ValueError):
    """A file is not as its format requires. The text completes a sentence about the file: "it has …", "its … is …".

    It quotes nothing of the file but numbers and names.
    """


class UnreachableSource(MLModelError):
    """The model cannot be read now, but perhaps later: HTTPS error, file not copied yet. Exit code 4."""


class RequestError(MLModelError):
    """The response is ``{"error": ...}`` with this HTTP status. The text names the field and quotes no data."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class TooSlow(RequestError):
    """The request did not arrive in time: HTTP 408. The router blames no version for it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 408)


class ModelFailure(MLModelError):
    """The model raised on input that fits its signature: HTTP 500. The text has the type of the exception, not its
    message, because scikit-learn quotes values of the input in it."""


def not_installed(what: str, library: str, extra: str) -> str:
    """Return the sentence for a missing library: what requires it, and the command that installs its ``extra``.

    No package index has the project, so the command needs a clone.
    """
    return f"{what} requires {library}, which is not installed: in a clone of the project, run pip install '.[{extra}]'"


SIGN = "mlmodel package DIR --sign KEY --name NAME"
SERVE_SIGNED = "mlmodel serve DIR --name NAME --trust signed --signing-keys PUBLIC_KEY"
SIGNING = f"sign it with {SIGN}, and serve it with {SERVE_SIGNED} (in an MLModel, spec.model.trust: signed)"
"""The commands that sign what is in a directory, and that serve it."""

OR_SIGN = f"or put the model alone into a directory DIR, {SIGNING}"
"""What else to do with a model that does more than ``strict`` allows."""

EXIT_CODES: dict[type[MLModelError], int] = {UsageError: 2, RefusedModel: 3, UnreachableSource: 4}
"""Exit codes of ``mlmodel-server`` and ``mlmodel serve``; 1 is a bug, or a model that crashes its process."""
