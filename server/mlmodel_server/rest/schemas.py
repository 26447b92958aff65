"""The JSON of every route as types, and the OpenAPI schemas that are generated from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
from msgspec import Meta

from mlmodel_server.observe.feedback import MAX_IDS, Labelled
from mlmodel_server.observe.reports import Scored
from mlmodel_server.protocol import v2
from mlmodel_server.serving.describe import Stats
from mlmodel_server.tensors import ModelMetadata, TensorSpec, kind


class Error(TypedDict):
    """The form of every error."""

    error: Annotated[str, Meta(description="One sentence that names what to change")]


class Alive(TypedDict):
    """Whether the server answers."""

    status: str


class Live(TypedDict):
    """Whether the process answers."""

    live: bool


class Ready(TypedDict):
    """Whether the server accepts requests."""

    ready: bool
    name: NotRequired[str]


class Server(TypedDict):
    """Name, version and extensions of the server."""

    name: str
    version: str
    extensions: Sequence[str]


class Models(TypedDict):
    """The models of this server."""

    models: list[str]


class Predictions(TypedDict):
    """A prediction for each row."""

    predictions: list[Any]


class Explanations(TypedDict):
    """The contributions of the features, for each row."""

    explanations: list[Any]


class Split(TypedDict):
    """A table in the format of MLflow: names of the columns, and rows."""

    columns: NotRequired[list[str]]
    data: list[list[Any]]


class InferRequest(v2.InferRequestJson[v2.TensorJson]):
    """An inference request of the Open Inference Protocol v2."""


class InferResponse(v2.InferResponseJson):
    """The response to an inference request of the Open Inference Protocol v2."""


Feedback = Labelled | Annotated[list[Labelled], Meta(min_length=1, max_length=MAX_IDS)]

Profile = Annotated[
    dict[str, dict[str, Any]],
    Meta(description="Profiles by column; a column of a matrix has input and position, such as input-0[3]"),
]


REF = "#/components/schemas/{name}"

_TYPES: dict[str, Any] = {"Feedback": Feedback, "Profile": Profile} | {
    described.__name__: described
    for described in (
        Error, Alive, Live, Ready, Server, Models, Predictions, Explanations, Scored, Stats,
        InferRequest, InferResponse, ModelMetadata,
    )
}  # fmt: skip

_CHOICES = {
    "RowsV1": ("Instances", "Inputs"),
    "Table": ("DataframeSplit", "DataframeRecords", "Instances", "Inputs"),
}
"""Schemas with several kinds of objects, for which msgspec has no union."""


def schemas(inputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """Return every schema by its name, for a model with these inputs."""
    named = types(inputs)
    generated, components = msgspec.json.schema_components(named.values(), ref_template=REF)
    named = {name: schema for name, schema in zip(named, generated, strict=True) if name not in components}
    return components | named | {name: {"oneOf": [ref(one) for one in ones]} for name, ones in _CHOICES.items()}


def types(inputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """Return the types by the names of their schemas, for a model with these inputs."""
    return _TYPES | _rows(inputs)


def ref(name: str) -> dict[str, str]:
    """Return the reference to a schema."""
    return {"$ref": REF.format(name=name)}


def _rows(inputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """Return the types of rows, for a model with these inputs."""
    row: Any = _object("Row", {spec.name: _value(spec) for spec in inputs})
    records: Any = Annotated[list[row], Meta(min_length=1)]
    values: Any = Annotated[list[row | list[Any] | float | str | bool], Meta(min_length=1)]
    objects = (
        row,
        _object("Instances", {"instances": values}),
        _object("Inputs", {"inputs": values | dict[str, list[Any]]}),
        _object("DataframeSplit", {"dataframe_split": Split}),
        _object("DataframeRecords", {"dataframe_records": records}),
    )
    return {"Rows": row | records} | {described.__name__: described for described in objects}


def _object(name: str, fields: dict[str, Any]) -> Any:
    return TypedDict(name, fields)  # type: ignore[operator]


def _value(spec: TensorSpec) -> Any:
    """Return the type of an input in one row; null is a missing value."""
    element = kind(spec.datatype)
    value: Any = element
    if spec.column is not None and spec.column.format:
        value = Annotated[str, Meta(description=spec.column.format)]
    if element is float or spec.is_nullable:
        value = value | None
    inner = () if spec.shape[1:] == (1,) else spec.shape[1:]
    for size in reversed(inner):
        value = list[value] if size == -1 else Annotated[list[value], Meta(min_length=size, max_length=size)]
    return value
