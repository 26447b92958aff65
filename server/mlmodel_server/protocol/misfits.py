"""What msgspec reports about JSON, as a sentence of ours. It never quotes a value."""

from __future__ import annotations

import re

from mlmodel_server.texts import one_line

_PLACED = re.compile(r"(.*?)(?: - at `\$\.?(.*)`)?", re.DOTALL)
_EXPECTED = re.compile(r"Expected `([a-z |]+)`(?: (of length )?(>=|<=) (\d+))?(?:, got `(\w+)`)?")
_FIELD = re.compile(r"Object (missing required|contains unknown) field `(.*)`", re.DOTALL)
_BYTE = re.compile(r"\(byte \d+\)")

_TYPES = {
    "int": "an integer", "float": "a number", "str": "text", "bool": "true or false", "array": "an array",
    "object": "an object", "null": "null",
}  # fmt: skip
_SENT = {**_TYPES, "bool": "a boolean", "float": "a floating-point number"}
_BOUNDS = {">=": "at least", "<=": "at most"}


def place_of(message: str) -> tuple[str, str]:
    """Return what is wrong and the path of the field, such as ``inputs[0].shape``; "" is the whole."""
    match = _PLACED.fullmatch(message)
    assert match, "any text matches"
    return match[1], match[2] or ""


def sentence(message: str, whole: str = "the body") -> str:
    """Return the sentence for the message of a ``ValidationError``; ``whole`` names what has no path."""
    reason, path = place_of(message)
    return said(reason, path, whole)


def said(reason: str, path: str, whole: str) -> str:
    """Return the sentence for a reason at a path."""
    if field := _FIELD.fullmatch(reason):
        name = one_line(field[2], 64)
        if field[1] == "missing required":
            return f"{path}.{name} is missing" if path else f"{name} is missing"
        return f"{path or whole} has the unknown field '{name}': remove it"
    if reason in ("Number out of range", "Integer value out of range"):
        return f"{path or whole} holds a number that is out of range"
    expected = _EXPECTED.fullmatch(reason)
    if not expected:
        return f"{path or whole} is not valid"
    types, length, bound, number, got = expected.groups()
    size = f" of {_BOUNDS[bound]} {number}" + (" elements" if length else "") if bound else ""
    return f"{path or whole} must be {_listed(types.split(' | '))}{size}" + (
        f", not {_SENT.get(got, got)}" if got else ""
    )


def _listed(types: list[str]) -> str:
    if len(types) == 1:
        return _TYPES.get(types[0], types[0])
    names = [_SENT.get(name, name) for name in types if name != "int" or "float" not in types]
    return f"{', '.join(names[:-1])} or {names[-1]}".replace(_SENT["float"], _TYPES["float"])


def malformed(message: str) -> str:
    """Return why a text is not JSON, for the message of a ``DecodeError``: what completes "not JSON: "."""
    byte = _BYTE.search(message)
    if byte:
        return f"the error is at {byte[0][1:-1]}"
    return "it ends too early" if "truncated" in message else "it has a number that is out of range"
