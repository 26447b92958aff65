"""Parse an ONNX model, check it, and write it anew: onnxruntime gets only what was read here.

The messages are those of ``onnx``, and protobuf parses them. A part of the model that is in no list below is rejected.
A part that cannot change a prediction is left out.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

from mlmodel_server.errors import RefusedModel, Unreadable
from mlmodel_server.formats import onnx_sizes
from mlmodel_server.formats.onnx_operators import OPERATORS
from mlmodel_server.formats.table import library

MAX_NODES = 1_000_000
"""Maximum nodes of a model after its functions are expanded."""

MAX_DEPTH = 16
"""Maximum depth of graphs in graphs, and of functions that call functions."""

MAX_INPUT = 1 << 24
"""Maximum elements of all inputs of a graph, with 1 for each variable dimension."""

_KEPT = {
    "AttributeProto": "name ref_attr_name type f i s t g tp floats ints strings tensors graphs type_protos",
    "Dimension": "dim_value dim_param",
    "FunctionProto": "name domain overload input output attribute attribute_proto node opset_import",
    "GraphProto": "name node initializer input output",
    "Map": "key_type value_type",
    "ModelProto": "ir_version opset_import producer_name producer_version domain model_version graph functions "
    "metadata_props",
    "NodeProto": "name domain op_type overload input output attribute",
    "OperatorSetIdProto": "domain version",
    "Optional": "elem_type",
    "Sequence": "elem_type",
    "StringStringEntryProto": "key value",
    "Tensor": "elem_type shape",
    "TensorProto": "name dims data_type raw_data float_data int32_data string_data int64_data double_data uint64_data",
    "TensorShapeProto": "dim",
    "TypeProto": "tensor_type sequence_type map_type optional_type",
    "ValueInfoProto": "name type",
}
"""The fields of each message that onnxruntime gets."""

_LEFT_OUT = {
    "Dimension": "denotation",
    "FunctionProto": "doc_string value_info metadata_props",
    "GraphProto": "doc_string value_info metadata_props quantization_annotation",
    "ModelProto": "doc_string training_info configuration",
    "NodeProto": "doc_string metadata_props device_configurations",
    "AttributeProto": "doc_string",
    "TensorProto": "doc_string metadata_props",
    "TypeProto": "denotation",
    "ValueInfoProto": "doc_string metadata_props",
}
"""The fields of each message that change no prediction."""

_METADATA = "domain"
"""The only metadata of a model that is read: our compiler writes it. onnxruntime would read its own options there."""

_ASSERTION = "mlmodel-is-floating-"
"""Prefix of the names of outputs in a model with assertions. An operator that accepts only floating-point numbers has
them."""

_POOLS = ("pool_int64s", "pool_strings")
_EXTERNAL = ("external_data", "data_location")
_ATTRIBUTES = {
    1: "f", 2: "i", 3: "s", 4: "t", 5: "g", 6: "floats", 7: "ints", 8: "strings", 9: "tensors", 10: "graphs", 13: "tp",
    14: "type_protos",
}  # fmt: skip
_BITS = {
    "float_data": {1: 32}, "double_data": {11: 64}, "int64_data": {7: 64}, "uint64_data": {12: 32, 13: 64},
    "int32_data": {2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 9: 8, 10: 16, 16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4,
                   23: 4},
    "string_data": {8: 0},
}  # fmt: skip
"""For each data type: the field with its numbers, and the size of one in bits (0: no fixed size)."""
_DATA = ("raw_data", *_BITS)
_FIELDS = {kind: (field, bits) for field, kinds in _BITS.items() for kind, bits in kinds.items()}


def messages() -> Any:
    """Return the module of ONNX's messages. Importing all of ``onnx`` would take 60 ms and 10 MB more."""
    if "onnx" not in sys.modules:
        found = importlib.util.find_spec("onnx")
        for folder in (found and found.submodule_search_locations) or ():
            spec = importlib.util.spec_from_file_location(f"{__name__}_pb2", Path(folder, "onnx_ml_pb2.py"))
            if spec and spec.loader:
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
                return module
    return library("onnx")


def rewritten(data: bytes, name: str) -> tuple[bytes, bytes]:
    """Return the model in ``data`` as it was read and checked, and the same model with assertions: no library loads
    those if a division that needs floating-point numbers has whole ones. Raise :class:`RefusedModel`, or ValueError if
    it is damaged."""
    model = messages().ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:  # DecodeError; protobuf is imported only here
        raise Unreadable("it is not an ONNX model, or is damaged") from None
    divisions = _Check(name).model(model)
    written: bytes = model.SerializeToString(deterministic=True)
    for number, division in enumerate(
        divisions
    ):  # no kernel runs for an output that is not used, but types are checked
        division.nodes.add(op_type="Floor", input=[division.divisor], output=[f"{_ASSERTION}{number}"])
    return written, model.SerializeToString(deterministic=True) if divisions else written


class _Check:
    """The checks of one model, whose file is ``name``."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._functions: dict[tuple[str, str, str], Any] = {}

    def refused(self, what: str, todo: str) -> RefusedModel:
        return RefusedModel(f"refused {what} in {self._name}: {todo}")

    def model(self, model: Any) -> list[onnx_sizes.Division]:
        """Check and clean a whole model. Return the divisions that must not be of whole numbers."""
        from google.protobuf.unknown_fields import UnknownFieldSet

        self._unknown = UnknownFieldSet
        self._clean(model, 0)
        kept = [entry.value for entry in model.metadata_props if entry.key == _METADATA][:1]
        model.ClearField("metadata_props")
        for value in kept:
            model.metadata_props.add(key=_METADATA, value=value)
        for function in model.functions:
            key = onnx_sizes.key(function.domain, function.name, function.overload)
            if key[0] in OPERATORS or key in self._functions:
                raise self.refused("a function with the name of an operator", "export the model with functions inlined")
            self._functions[key] = function
        self._inputs(model.graph)
        self._graph(model.graph)
        for function in model.functions:
            self._nodes(function.node)
            self._attributes(function.attribute_proto)
        self._expanded(model)
        return onnx_sizes.check(model, self._functions, self.refused)

    def _clean(self, message: Any, depth: int) -> None:
        """Reject fields that are in no list, and leave out those that change nothing, in ``message`` and its parts."""
        kind = message.DESCRIPTOR.name
        if depth > 3 * MAX_DEPTH + 8:  # graph, node, attribute; a tensor's type has fewer messages than the rest
            raise self.refused("graphs nested too deep", "export the model with fewer branches and loops in each other")
        for left_out in _LEFT_OUT.get(kind, "").split():
            message.ClearField(left_out)
        kept, fields = _KEPT.get(kind, "").split(), message.ListFields()
        for field, value in fields:
            if kind == "TensorProto" and field.name in _EXTERNAL:
                if field.name == "data_location" and value == 0:
                    continue
                raise self.refused(
                    "external data",
                    "save the model as one file (onnx.save(model, 'model.onnx', save_as_external_data=False))",
                )
            if field.name not in kept:
                raise self.refused(f"the part {field.name}", "export the model with plain tensors and operators only")
            if field.message_type is not None:
                for part in value if field.is_repeated else (value,):
                    self._clean(part, depth + 1)
        if len(self._unknown(message)):
            raise self.refused(
                "a part that this server's ONNX does not know", "save it with onnx.save under an older ONNX"
            )
        if kind == "TensorProto":
            message.ClearField("data_location")
            self._tensor(message, {field.name: len(value) for field, value in fields if field.name in _DATA})

    def _tensor(self, tensor: Any, lengths: Mapping[str, int]) -> None:
        """Reject a tensor unless its data, of these ``lengths``, are exactly what its shape and type need."""
        field, bits = _FIELDS.get(tensor.data_type, ("", 0))
        if not field or any(not 0 <= size < 1 << 31 for size in tensor.dims):
            raise self.refused("a tensor of an unknown type or shape", "export the model with plain tensors")
        count = prod(tensor.dims)
        given = {name: length for name, length in lengths.items() if length}
        expected = {"raw_data": (count * bits + 7) // 8} if "raw_data" in given else {field: _entries(count, bits)}
        if (given or {field: 0}) != (expected if count else {field: 0}) or ("raw_data" in given and not bits):
            raise self.refused("a tensor whose data do not fit its shape", "save the model again with onnx.save")

    def _inputs(self, graph: Any) -> None:
        given = {tensor.name for tensor in graph.initializer}
        sizes = [
            prod(max(1, dim.dim_value) for dim in value.type.tensor_type.shape.dim)
            for value in graph.input
            if value.name not in given
        ]
        if any(
            dim.HasField("dim_value") and dim.dim_value == 0
            for value in graph.input
            for dim in value.type.tensor_type.shape.dim
        ):
            raise self.refused("an input without numbers", "export the model with variable dimensions instead of 0")
        if sum(sizes) > MAX_INPUT:
            raise self.refused(
                f"inputs of {sum(sizes):,} numbers", f"export the model with at most {MAX_INPUT:,} for one prediction"
            )

    def _graph(self, graph: Any) -> None:
        names = [tensor.name for tensor in graph.initializer]
        if len(names) != len(set(names)):
            raise self.refused("two tensors of one name", "save the model again with onnx.save")
        self._nodes(graph.node)

    def _nodes(self, nodes: Iterable[Any]) -> None:
        for node in nodes:
            domain, operator, _ = key = onnx_sizes.key(node.domain, node.op_type, node.overload)
            if key not in self._functions and operator not in OPERATORS.get(domain, ()):
                shown = "".join(c for c in f"{domain}.{operator}".lstrip(".")[:80] if c.isalnum() or c in "._-")
                raise self.refused(
                    f"the operator {shown}", "export the model with the operators of the ONNX standard only"
                )
            self._attributes(node.attribute)
            if operator == "TfIdfVectorizer" and not _has_column_for_each_term(node):
                raise self.refused("a TfIdfVectorizer whose terms have no columns", "export the model again")

    def _attributes(self, attributes: Iterable[Any]) -> None:
        seen = set()
        for attribute in attributes:
            field = "" if attribute.ref_attr_name else _ATTRIBUTES.get(attribute.type, "?")
            given = {used.name for used, _ in attribute.ListFields()} - {"name", "type", "ref_attr_name"}
            if attribute.name in seen or field == "?" or given - {field}:
                raise self.refused("an attribute that can be read in two ways", "save the model again with onnx.save")
            seen.add(attribute.name)
            for graph in onnx_sizes.graphs(attribute):
                self._graph(graph)

    def _expanded(self, model: Any) -> None:
        """Reject functions that call themselves, or that expand to too many nodes."""
        sizes: dict[tuple[str, str, str], int] = {}

        def size(nodes: Iterable[Any], depth: int) -> int:
            if depth > MAX_DEPTH:
                raise self.refused("functions nested too deep", "export the model with functions inlined")
            total = 0
            for node in _all_nodes(nodes):
                key = onnx_sizes.key(node.domain, node.op_type, node.overload)
                if key in self._functions and key not in sizes:
                    sizes[key] = size(self._functions[key].node, depth + 1)
                total += sizes.get(key, 1)
            return total

        total = size(model.graph.node, 0) + sum(size(function.node, 0) for function in model.functions)
        if total > MAX_NODES:
            raise self.refused(f"more than {MAX_NODES:,} operators", "export a smaller model")


def _has_column_for_each_term(node: Any) -> bool:
    """Whether ``ngram_indexes`` has an entry for each term of the pool; onnxruntime reads them without a check."""
    found = {attribute.name: attribute for attribute in node.attribute}
    if not {"ngram_counts", "ngram_indexes"} <= found.keys():
        return False
    pool = sum(len(found[name].ints) + len(found[name].strings) for name in _POOLS if name in found)
    starts = [*found["ngram_counts"].ints, pool]
    terms = sum(max(0, end - start) // length for length, (start, end) in enumerate(pairwise(starts), 1))
    return bool(len(found["ngram_indexes"].ints) == terms)


def _entries(count: int, bits: int) -> int:
    """Return the number of entries in a field of numbers: numbers of 4 bits are two in one."""
    return (count + 1) // 2 if bits == 4 else count


def _all_nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    """Yield ``nodes``, and those of the graphs in them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in onnx_sizes.graphs(attribute):
                yield from _all_nodes(graph.node)
