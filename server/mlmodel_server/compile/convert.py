"""Convert a fitted estimator to an ONNX model with the outputs of its signature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
from onnx import TensorProto, helper

from mlmodel_server.compile import (  # noqa: F401  each registers converters
    boosters,
    columns,
    ensembles,
    predictors,
    trees,
    vectors,
)
from mlmodel_server.compile.bounds import unbounded
from mlmodel_server.compile.domain import Domain
from mlmodel_server.compile.functions import DOMAIN, GUARD, NUMBERS, TEXT
from mlmodel_server.compile.graph import DOUBLE, ML, Columns, Frame, Graph, predict
from mlmodel_server.compile.verdict import Unsupported
from mlmodel_server.formats.opened import PREDICT_PROBA
from mlmodel_server.formats.prepare import parts
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import Array, TensorSpec

OPSET, ML_OPSET, IR_VERSION = 21, 5, 10
"""ONNX 1.17: TreeEnsemble in float64 is new in ai.onnx.ml 5, and ONNX Runtime reads it since 1.20."""

_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def convert(
    estimator: Any,
    signature: Signature,
    domain: Domain,
    example: Array | None = None,
    request: Sequence[TensorSpec] = (),
) -> tuple[bytes, tuple[str, ...]]:
    """Return the ONNX model and its operations, most frequent first. ``example`` is a row of a request with the
    columns ``request``, if the model gets a DataFrame.

    Inputs: ``numbers`` (float64 [rows, columns], all columns that are not text), ``text`` (strings [rows, columns]),
    and the answers of the author's own steps (float64 [rows, columns]);
    outputs: those of the signature; if its steps check what they get from the step before, also that; and
    ``guard`` if they may reject it although the numbers of the request are not great.
    Raise :class:`Unsupported`, or any exception of a converter.
    """
    table = _table(signature)
    graph = Graph(None if example is None else Frame(parts(estimator), example, request, table.places))
    prediction = predict(graph, estimator, _of_frame(estimator, signature, table) if signature.frame else table)
    domain = msgspec.structs.replace(domain, own=graph.own)
    outputs = []
    for spec in signature.outputs:
        tensor = prediction.proba if spec.name == PREDICT_PROBA else prediction.predict
        if not tensor:
            raise Unsupported(f"{spec.name} of {type(estimator).__name__} is not converted")
        # So far labels are text, int64 or float64, and all other values are float64.
        if spec.datatype not in ("FP64", "INT64", "BYTES"):
            tensor = graph.add("Cast", tensor, to=_TYPES[spec.datatype])
        graph.nodes.append(helper.make_node("Identity", [tensor], [spec.name]))
        outputs.append(helper.make_tensor_value_info(spec.name, _TYPES[spec.datatype], None))
    if graph.limits:
        if guarded := unbounded(graph):
            graph.nodes.append(helper.make_node("Identity", [graph.guard(guarded)], [GUARD]))
            outputs.append(helper.make_tensor_value_info(GUARD, DOUBLE, []))
        outputs += [helper.make_tensor_value_info(name, DOUBLE, None) for name in graph.limits]
        domain = msgspec.structs.replace(domain, steps=graph.limits)
    nodes, constants = graph.reachable(output.name for output in outputs)
    used = {name for node in nodes for name in node.input}
    inputs = [
        helper.make_tensor_value_info(name, kind, [None, width])
        for name, kind, width in (
            (NUMBERS, DOUBLE, table.width),
            (TEXT, int(TensorProto.STRING), len(table.places) - table.width),
            *((name, DOUBLE, step.width) for name, step in graph.own.items()),
        )
        if name in used
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "model", inputs, outputs, constants),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(ML, ML_OPSET)],
        ir_version=IR_VERSION,
        producer_name="mlmodel",
    )
    helper.set_model_props(model, {DOMAIN: msgspec.json.encode(domain).decode()})
    return model.SerializeToString(), _operations([node.op_type for node in nodes])


def _operations(names: list[str]) -> tuple[str, ...]:
    distinct = sorted(set(names) - {"Identity"})
    return tuple(sorted(distinct, key=names.count, reverse=True))


def _of_frame(estimator: Any, signature: Signature, table: Columns) -> Columns:
    """Return the columns as the estimator gets them of a DataFrame: in the order of its training, with their dtypes."""
    places = {spec.name: place for spec, place in zip(signature.inputs, table.places, strict=True)}
    dtypes = {spec.name: spec.column.dtype for spec in signature.inputs if spec.column}
    names = [str(name) for name in getattr(estimator, "feature_names_in_", ())]
    if not names or not set(names) <= set(places):
        raise Unsupported(f"{type(estimator).__name__} without the names of its columns is not converted")
    return replace(
        table,
        places=tuple(places[name] for name in names),
        dtypes={places[name]: dtype for name, dtype in dtypes.items()},
        is_frame=True,
    )


def _table(signature: Signature) -> Columns:
    single = all(spec.datatype == "FP32" for spec in signature.inputs)
    if signature.layout == "matrix":
        return replace(Columns.of(NUMBERS, signature.inputs[0].shape[-1]), single=single, given=True)
    places: list[tuple[bool, int]] = []
    for spec in signature.inputs:
        text = spec.datatype == "BYTES"
        places.append((text, sum(place[0] is text for place in places)))
    return Columns(NUMBERS, TEXT, tuple(places), sum(not text for text, _ in places), single, given=True)
