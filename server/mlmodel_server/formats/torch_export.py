"""PyTorch programs as ``torch.export.save`` writes them (.pt2)."""

from __future__ import annotations

import io
import math
import re
import zipfile
from typing import Any

import numpy as np

from mlmodel_server.errors import OR_SIGN, RefusedModel, Unreadable
from mlmodel_server.formats.opened import Artefact, Opened, layout_of
from mlmodel_server.formats.table import library
from mlmodel_server.formats.torch_common import TORCH_DATATYPES, TorchFunctions, restrict
from mlmodel_server.formats.torch_guards import guard
from mlmodel_server.formats.torch_program import Refuse, checked_program
from mlmodel_server.formats.torch_weights import checked_weights
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import DTYPES, TensorSpec

MAX_EXAMPLE = 1 << 26
"""Maximum number of values in an input of the example: the program predicts it when it is opened."""

MAX_JSON = 256 << 20
"""Maximum bytes of the JSON in one program."""

_LIBRARIES = re.compile(r"\.so(\.|$)|aotinductor")
_PROGRAM, _SAMPLE = "models/model.json", "data/sample_inputs/model.pt"
_FOLDERS = ("data/weights/", "data/constants/")
_KEPT = frozenset(("archive_format", "archive_version", "byteorder", ".data/version"))
_MAX_KEPT = 1_000
# What torch wrote before 2.8
_OLD_PROGRAM = "serialized_exported_program.json"
_OLD_STATES = ("serialized_state_dict.pt", "serialized_constants.pt")


def check(artefact: Artefact) -> Artefact:
    """Return the program, written anew from what was checked. Raise :class:`RefusedModel` for one that does more than
    compute: that calls other operators, evaluates text that is not a formula, opens a pickle or a library."""

    def refuse(what: str) -> RefusedModel:
        return RefusedModel(
            f"refused {what} in {artefact.name}: an exported program may only compute with torch's own operators; "
            f""
            f"remove that part of the model and export it again without run_decompositions, "
            f"{OR_SIGN}"
        )

    members = _members(artefact.data, refuse)
    written = _old(members, refuse) if _OLD_PROGRAM in members else _new(members, refuse)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name, data in written.items():
            target.writestr(name, data)
    return Artefact(artefact.name, {artefact.name: buffer.getvalue()})


def _members(data: bytes, refuse: Refuse) -> dict[str, bytes]:
    """Return the files in the archive, without the folder that all are in."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        if any(_LIBRARIES.search(entry.filename) for entry in entries):
            raise refuse("a compiled library")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):  # torch never compresses
            raise refuse("compressed members")
        if len({entry.filename for entry in entries}) != len(entries):
            raise refuse("a member that is there twice")
        if sum(entry.file_size for entry in entries if entry.filename.endswith(".json")) > MAX_JSON:
            raise Unreadable("it unpacks to more than the limit")
        members = {entry.filename: archive.read(entry) for entry in entries if not entry.is_dir()}
    if _OLD_PROGRAM in members:
        return members
    tops = {name.partition("/")[0] for name in members}
    if len(tops) != 1:
        raise refuse("members in several folders")
    return {name.partition("/")[2]: content for name, content in members.items()}


def _new(members: dict[str, bytes], refuse: Refuse) -> dict[str, bytes]:
    if [name for name in members if name.startswith("models/")] != [_PROGRAM]:
        raise refuse("programs beside the one called model")
    written = {name: members[name] for name in _KEPT & members.keys() if len(members[name]) < _MAX_KEPT}
    written[_PROGRAM] = checked_program(members[_PROGRAM], refuse)
    for folder in _FOLDERS:
        records = {name.removeprefix(folder): data for name, data in members.items() if name.startswith(folder)}
        config = f"model_{folder.split('/')[1]}_config.json"
        if config not in records:
            raise refuse("weights in a format of former versions of torch")
        sizes = {name: len(data) for name, data in records.items()}
        text, used = checked_weights(records[config], sizes, refuse)
        written[folder + config] = text
        written.update({folder + name: records[name] for name in used})
    written[_SAMPLE] = b""  # the example is a pickle, and torch does not need it
    return {f"model/{name}": data for name, data in written.items()}


def _old(members: dict[str, bytes], refuse: Refuse) -> dict[str, bytes]:
    torch = library("torch")
    written = {"version": members["version"], _OLD_PROGRAM: checked_program(members[_OLD_PROGRAM], refuse)}
    for name in _OLD_STATES:
        try:
            state = torch.load(io.BytesIO(members[name]), map_location="cpu", weights_only=True)
        except Exception:  # torch would open it as a pickle
            raise refuse("a pickle") from None
        tensors = state if isinstance(state, dict) else {None: None}
        if any(not isinstance(key, str) or not isinstance(value, torch.Tensor) for key, value in tensors.items()):
            raise refuse("weights that are not tensors")
        buffer = io.BytesIO()
        torch.save(state, buffer)
        written[name] = buffer.getvalue()
    written["serialized_example_inputs.pt"] = b""
    return written


def opened(artefact: Artefact, threads: int) -> Opened:
    """Return the program, with the inputs and outputs that it was exported with."""
    torch = library("torch")
    restrict(threads)
    program = torch.export.load(io.BytesIO(artefact.data))
    functions = TorchFunctions(guard(program.module()))
    nodes = {node.name: node for node in program.graph.nodes}
    user = program.graph_signature
    inputs = tuple(_spec(name, nodes[name], artefact.name) for name in user.user_inputs if name in nodes)
    if not inputs or len(inputs) != len(user.user_inputs) or program.call_spec.in_spec.child(1).num_leaves:
        raise RefusedModel(
            f"{artefact.name} has inputs that are not tensors: export it with positional tensors as arguments"
        )
    shapes = {name: _example_shape(nodes[name].meta["val"]) for name in user.user_inputs}
    if any(math.prod(shape) > MAX_EXAMPLE for shape in shapes.values()):
        raise RefusedModel(f"{artefact.name} has inputs that are too large: export it with a smaller example")
    zeros = {spec.name: np.zeros(shapes[spec.name], DTYPES[spec.datatype]) for spec in inputs}
    names = list(functions.all_outputs(zeros))
    specs = (_spec(str(node), nodes[str(node)], artefact.name) for node in user.user_outputs)
    outputs = tuple(TensorSpec(name, spec.datatype, spec.shape) for name, spec in zip(names, specs, strict=True))
    return Opened(
        "torch-export",
        "pytorch_export",
        functions,
        Signature(layout_of(inputs), inputs, outputs),
    )


def _spec(name: str, node: Any, file: str) -> TensorSpec:
    value = node.meta.get("val")
    datatype = TORCH_DATATYPES.get(str(getattr(value, "dtype", None)))
    if datatype is None:
        raise RefusedModel(
            f"{name} in {file} is not a tensor of a type that the protocol has: export it with tensors of numbers"
        )
    return TensorSpec(name, datatype, tuple(size if type(size) is int else -1 for size in value.shape))


def _example_shape(value: Any) -> list[int]:
    """Return a shape that the program accepts: the one that it was exported with."""
    return [size if type(size) is int else size.node.hint or 2 for size in value.shape]
