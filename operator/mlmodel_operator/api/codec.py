"""Decode, encode and schema: from one declaration, a frozen dataclass, to and from the JSON of the API.

``from __future__ import annotations`` is in force in the declaring modules, so types are resolved by
``typing.get_type_hints``; the result is cached per class because it is the slow part.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mlmodel_operator.api.schema import Doc, HeaderValue, Limits, Opaque, Quantity, Rule, Time

T = TypeVar("T")
_PLAIN = frozenset({str, int, float, bool, type(None)})
_OMITTED = frozenset({str, tuple, dict})
"""Types whose empty values an optional field leaves out."""

QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"


class DecodeError(ValueError):
    """Data does not fit the declared type; the message names the field and what it must be."""


@dataclasses.dataclass(frozen=True)
class _Field:
    name: str
    wire: str
    type: Any
    doc: str
    limits: Limits
    required: bool
    opaque: bool


def camel(name: str) -> str:
    """Return the name on the wire: ``min_requests`` → ``minRequests``."""
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


def _unwrap(kind: Any) -> Any:
    """Return ``X`` for ``X | None``."""
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = [arg for arg in get_args(kind) if arg is not type(None)]
    return kind


@functools.cache
def _fields(cls: type) -> tuple[_Field, ...]:
    hints = get_type_hints(cls, include_extras=True)
    found = []
    for item in dataclasses.fields(cls):
        kind, doc, limits, opaque = hints[item.name], "", Limits(), False
        if get_origin(kind) is Annotated:
            kind, *extras = get_args(kind)
            for extra in extras:
                if isinstance(extra, Doc):
                    doc = extra.text
                elif isinstance(extra, Limits):
                    limits = extra
                elif isinstance(extra, Opaque):
                    opaque = True
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        found.append(_Field(item.name, camel(item.name), _unwrap(kind), doc, limits, required, opaque))
    return tuple(found)


def decode(cls: type[T], data: Any, path: str = "") -> T:
    """Return an instance of ``cls`` from JSON data. Unknown keys are ignored; absent and null ones take their defaults.

    Raise DecodeError with the path of the first value that does not fit.
    """
    if not isinstance(data, Mapping):
        raise DecodeError(f"{path or cls.__name__} must be an object")
    values = {}
    declared: Any = cls  # a type variable is not Hashable in mypy's eyes
    for item in _fields(declared):
        value = data.get(item.wire)
        if not item.opaque and type(value) is _plain(item.type):  # nearly every value
            values[item.name] = value
            continue
        where = f"{path}.{item.wire}" if path else item.wire
        if value is None:
            if item.required:
                raise DecodeError(f"{where} is missing")
            continue
        values[item.name] = _decoder(item.type)(_parse(value, where) if item.opaque else value, where)
    try:
        return cls(**values)
    except TypeError as error:
        # From a check of the class: values of the right types that do not fit together.
        raise DecodeError(f"{path or cls.__name__}: {error}") from None


def _parse(text: Any, path: str) -> Any:
    """Return the data in an opaque field."""
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError):
        raise DecodeError(f"{path} must be a JSON string") from None


_Decoder = Callable[[Any, str], Any]
"""Returns the value from JSON data, of which the path is for errors."""


@functools.cache
def _decoder(kind: Any) -> _Decoder:
    """Return what decodes one type: a status has thousands of values, and each type is looked at once."""
    origin, args = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return functools.partial(decode, kind)
    if origin is tuple:
        return functools.partial(_decode_list, _plain(args[0]), _decoder(args[0]))
    if origin is Mapping:
        return functools.partial(_decode_mapping, _plain(args[1]), _decoder(args[1]))
    if origin is Literal:
        return functools.partial(_decode_choice, args)
    if kind is Time:
        return parse_time
    if kind is Quantity:
        return lambda value, _: Quantity(str(value))
    if kind is HeaderValue:
        return lambda value, path: HeaderValue(_decode_plain(str, value, path))
    return functools.partial(_decode_plain, kind)


def _plain(kind: Any) -> Any:
    """Return the type whose values are decoded as they are; None for a float, which may be infinite."""
    return None if kind is float else kind


def _decode_list(plain: Any, inner: _Decoder, value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise DecodeError(f"{path} must be a list")
    return tuple(item if type(item) is plain else inner(item, f"{path}[{index}]") for index, item in enumerate(value))


def _decode_mapping(plain: Any, inner: _Decoder, value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise DecodeError(f"{path} must be an object")
    return {str(key): item if type(item) is plain else inner(item, f"{path}.{key}") for key, item in value.items()}


def _decode_choice(choices: tuple[Any, ...], value: Any, path: str) -> Any:
    if value not in choices:
        raise DecodeError(f"{path} must be one of {', '.join(map(str, choices))}")
    return value


def _decode_plain(kind: Any, value: Any, path: str) -> Any:
    if kind is float and isinstance(value, float) and not math.isfinite(value):
        raise DecodeError(f"{path} must be a finite number")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise DecodeError(f"{path} must be of type {kind.__name__}")
    return value


def encode(value: Any) -> Any:
    """Return the JSON data of a tree of dataclasses; objects leave out None and empty optional texts and lists.

    It runs some ten times in each reconcile, so the common cases come first.
    """
    kind: Any = type(value)
    if kind in _PLAIN:
        return value
    if hasattr(kind, "__dataclass_fields__"):
        result = {}
        for item in _fields(kind):
            inner = getattr(value, item.name)
            if inner is None or (not inner and not item.required and type(inner) in _OMITTED):
                continue
            if item.type is Time:
                inner = format_time(inner)
            data = inner if type(inner) in _PLAIN else encode(inner)
            result[item.wire] = json.dumps(data, separators=(",", ":"), sort_keys=True) if item.opaque else data
        return result
    if isinstance(value, Mapping):
        return {str(key): item if type(item) in _PLAIN else encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    return value


def format_time(seconds: float) -> str:
    """Return a time as RFC 3339 in UTC with milliseconds: ``2026-01-31T12:00:00.250Z``."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_time(text: Any, path: str = "time") -> Time:
    """Return the seconds since the epoch of any RFC 3339 time; raise DecodeError if ``text`` is not one, or not in the
    years 1 to 9999 of UTC."""
    try:
        seconds = datetime.fromisoformat(text).timestamp()
        format_time(seconds)
        return Time(seconds)
    except (TypeError, ValueError, OverflowError):
        raise DecodeError(f"{path} must be an RFC 3339 time such as 2026-01-31T12:00:00Z") from None


def schema(cls: type, *, with_rules: bool = True) -> dict[str, Any]:
    """Return the structural OpenAPI schema of a dataclass, with its CEL rules.

    A required field with a rule ``has(self.FIELD)`` is not in ``required``: the message of the rule says what to type,
    that of the API server does not. Status, which only the operator writes, has no rules.
    """
    rules: tuple[Rule, ...] = getattr(cls, "rules", ()) if with_rules else ()
    ruled = {rule.rule for rule in rules}
    properties = {}
    required = []
    for item in _fields(cls):
        shape = {"type": "string"} if item.opaque else _schema(item.type, item.limits, with_rules)
        properties[item.wire] = shape | ({"description": item.doc} if item.doc else {})
        if item.required and f"has(self.{item.wire})" not in ruled:
            required.append(item.wire)
    doc = (cls.__doc__ or "").strip().split("\n\n")[0]
    result: dict[str, Any] = {"type": "object", "description": " ".join(doc.split()), "properties": properties}
    if required:
        result["required"] = required
    if rules:
        result["x-kubernetes-validations"] = [
            {"rule": rule.rule, "message": rule.message} | ({"fieldPath": rule.field_path} if rule.field_path else {})
            for rule in rules
        ]
    return result


def _number(value: float) -> float:
    return int(value) if math.floor(value) == value else value


def _schema(kind: Any, limits: Limits, with_rules: bool) -> dict[str, Any]:
    origin = get_origin(kind)

    def bounded(low: str, high: str) -> dict[str, Any]:
        bounds = {}
        if limits.minimum is not None:
            bounds[low] = _number(limits.minimum)
        if limits.maximum is not None:
            bounds[high] = _number(limits.maximum)
        return bounds

    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return schema(kind, with_rules=with_rules)
    if origin is tuple:
        return {
            "type": "array",
            "items": _schema(get_args(kind)[0], Limits(), with_rules),
            "x-kubernetes-list-type": "atomic",
        } | bounded("minItems", "maxItems")
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _schema(get_args(kind)[1], Limits(), with_rules)} | bounded(
            "minProperties", "maxProperties"
        )
    if origin is Literal:
        return {"type": "string", "enum": list(get_args(kind))}
    if kind is Time:
        return {"type": "string", "format": "date-time"}
    if kind is Quantity:
        return {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "pattern": QUANTITY_PATTERN,
            "maxLength": 32,
        }
    if kind is HeaderValue:
        return {"type": "string", "minLength": 1, "maxLength": 64}
    if kind is bool:
        return {"type": "boolean"}
    if kind is int:
        return {"type": "integer", "format": "int64"} | bounded("minimum", "maximum")
    if kind is float:
        return {"type": "number"} | bounded("minimum", "maximum")
    return {"type": "string"} | bounded("minLength", "maxLength")
