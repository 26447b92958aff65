"""The self-test: predicts the golden examples of a package through the code that serves requests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isclose, prod
from types import MappingProxyType
from typing import Any

import msgspec

from mlmodel_server.engine.model import BLANK, Model
from mlmodel_server.errors import ModelFailure, RefusedModel, RequestError
from mlmodel_server.formats.opened import FILLS
from mlmodel_server.formats.table import installed_version
from mlmodel_server.manifest import Golden
from mlmodel_server.protocol import v2

TOLERANCE = {"FP64": 1e-6, "FP32": 1e-4, "FP16": 1e-2}
"""Relative tolerance by datatype; other datatypes must be equal."""

_VERSION = re.compile(r"\d[\w.]{0,20}", re.ASCII)
MAX_EXAMPLE = 1 << 24
"""Maximum number of values of one input in the example of a model without a package."""

LIKE_DATES = (
    "the numbers of the training look like times since 1970, so these columns may be dates: a server takes numbers for "
    "them, unless you write a package with mlmodel package FILE --data rows.csv --dates COLUMN --out DIR"
)
SEVERAL_ROWS = (
    "the model predicts its examples together, but not one of them alone: replace the step that needs several rows, "
    "such as SparsePCA"
)


def run(model: Model, golden: Golden, saved_with: Mapping[str, str] = MappingProxyType({})) -> None:
    """Raise :class:`RefusedModel` unless the model predicts its golden examples as it did when it was saved.

    ``saved_with`` are the versions of the libraries that saved it, for what the error says.
    """
    try:
        response = model.infer(v2.decode(request_body(golden)))
        names = {expected["name"] for expected in golden.outputs}
        answers = {tensor.name: v2.tensor_json(tensor) for tensor in response.outputs if tensor.name in names}
    except (RequestError, ModelFailure) as error:
        raise RefusedModel(f"self-test: {error}: save the package again with this version of the server") from None
    for expected in golden.outputs:
        wrong = _differing_rows(expected, answers[expected["name"]])
        if wrong:
            raise RefusedModel(
                f"self-test: {len(wrong)} of {expected['shape'][0]} golden examples differ in {expected['name']} "
                f"(first: example {wrong[0]}): {_why_other(saved_with)}"
            )
    if model.batchable:
        try:
            model.infer(v2.decode(request_body(golden, rows=1)))
        except (RequestError, ModelFailure) as error:
            raise RefusedModel(f"self-test: {SEVERAL_ROWS} ({error})") from None


def _why_other(saved_with: Mapping[str, str]) -> str:
    """Return why a model may answer otherwise than when it was saved, and what to do."""
    other = differences(saved_with)
    if other:
        return f"save the package again with the libraries of this server ({'; '.join(other)})"
    return (
        "the libraries are those that saved it, so the model's code was changed, it depends on random numbers, time or "
        "the processor, or the package was edited: make the model depend on its input only, and save the package again"
    )


def differences(saved_with: Mapping[str, str]) -> list[str]:
    """Return the libraries that this process has in another version than the one that saved a model."""
    return [
        f"{library}: saved with {version}, served with {here}"
        for library, version in saved_with.items()
        if (here := installed_version(library)) and here != version
    ]


def request_body(golden: Golden, rows: int | None = None) -> bytes:
    """Return all golden examples as the body of a request for every output, or ``rows`` of them for the default one."""
    inputs = [_head(tensor, rows) if rows else tensor for tensor in golden.inputs]
    body: dict[str, Any] = {"inputs": inputs}
    if rows is None:
        body["outputs"] = [{"name": tensor["name"]} for tensor in golden.outputs]
    return msgspec.json.encode(body)


def _head(tensor: dict[str, Any], rows: int) -> dict[str, Any]:
    per_row = len(tensor["data"]) // tensor["shape"][0]
    return {**tensor, "shape": [rows, *tensor["shape"][1:]], "data": tensor["data"][: rows * per_row]}


def _differing_rows(expected: dict[str, Any], answer: dict[str, Any]) -> list[int]:
    rows = expected["shape"][0]
    if answer["shape"] != expected["shape"] or answer["datatype"] != expected["datatype"]:
        return list(range(rows))
    tolerance = TOLERANCE.get(expected["datatype"])
    per_row = len(expected["data"]) // rows
    return sorted(
        {
            index // per_row
            for index, (value, got) in enumerate(zip(expected["data"], answer["data"], strict=True))
            if not _close(value, got, tolerance)
        }
    )


def _close(value: Any, got: Any, tolerance: float | None) -> bool:
    if tolerance is None or not isinstance(value, (int, float)):
        return bool(value == got)
    return isclose(value, got, rel_tol=tolerance, abs_tol=tolerance / 1e3)


def example(model: Model, known: Mapping[int, Any], saved_with: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """Return a request with one row that the model answers: the example of a model without a package.

    ``known`` are values of columns, ``saved_with`` the versions of the libraries that wrote the file, if it says so.
    Raise :class:`RefusedModel` if the model answers none of the rows that can be made from them: then its users cannot
    know what to send.
    """
    for fill in FILLS:
        body = blank_body(model, known, fill)
        try:
            for tensor in model.infer(v2.decode(body)).outputs:
                v2.tensor_json(tensor)
        except (RequestError, ModelFailure) as error:
            reason = error
        else:
            return body
    for library, version in saved_with.items():
        if _VERSION.fullmatch(version) and version != installed_version(library):
            raise RefusedModel(
                f"self-test: {reason}: the model was saved with {library} {version}, and this server has "
                f"{installed_version(library)}: train the model again with that version"
            )
    raise RefusedModel(
        f"self-test: {reason}, and the file does not say which rows the model accepts: write a package with "
        "`mlmodel package FILE --data rows.csv --label LABEL --out DIR`, or package.save(model, X, y, DIR)"
    )


def blank_body(model: Model, known: Mapping[int, Any] = MappingProxyType({}), fill: float = 0.0) -> bytes:
    """Return a request with one row of ``known`` values by column, and ``fill``, empty texts and false."""
    inputs = model.signature.inputs
    tensors = []
    for column, spec in enumerate(inputs):
        shape = [max(1, length) for length in spec.shape]
        if prod(shape) > MAX_EXAMPLE:
            raise RefusedModel(
                f"the model takes {prod(shape):,} values of {spec.name[:40]!r} for one row, more than {MAX_EXAMPLE:,}: "
                "write a package of a smaller model"
            )
        data = [_blank(spec.datatype, fill)] * prod(shape)
        if model.signature.layout == "matrix":
            data = [float(known[index]) if index in known else value for index, value in enumerate(data)]
        elif column in known:
            whole = spec.datatype.startswith(("INT", "UINT"))
            data = [int(known[column]) if whole else known[column]] * prod(shape)
        tensors.append({"name": spec.name, "datatype": spec.datatype, "shape": shape, "data": data})
    return msgspec.json.encode({"inputs": tensors})


def _blank(datatype: str, fill: float) -> float | int | str | bool:
    blank: float | int | str | bool = BLANK.get(datatype, fill if datatype.startswith("FP") else int(fill))
    return blank
