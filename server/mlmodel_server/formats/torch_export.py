"""PyTorch programs as ``torch.export.save`` writes them (.pt2)."""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.opened import Artefact, Opened, layout_of, parts
from mlmodel_server.formats.table import library
from mlmodel_server.formats.torch_common import TORCH_DATATYPES, TorchFunctions, restrict
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import DTYPES, TensorSpec

MAX_JSON = 256 << 20
"""Maximum bytes of the JSON in one program."""

# torch looks up a target in the module torch, operator or math and calls it, and it evaluates the expressions of shapes
# and guards as Python. So only these are allowed.
_LOOKED_UP = ("torch", "_operator", "math", "#")
_TARGET = re.compile(
    r"torch\.ops\.(?:aten|prims|quantized|higher_order)\.(?!from_file\b|save\b|_print\b)\w+(?:\.\w+)?"
    r"|torch\.sym_\w+|torch\._sym_\w+|torch\.amp\.autocast_mode\.\w+|torch\._C\._set_grad_enabled"
    r"|_operator\.(?:add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|math\.(?:ceil|floor|trunc|sqrt|log|log2|exp|pow)"
)
_NAMES = re.compile(
    r"[suz]\w*\d+|L|Symbol|Integer|Float|Rational|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CeilDiv|CleanDiv|IntTrueDiv"
    r"|FloatTrueDiv|FloatPow|PowByNatural|ModularIndexing|Where|Identity|ToFloat|\w+ToInt|RoundDecimal|LShift|RShift"
    r"|TruncToFloat|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|floor|ceiling|oo|int_oo|true|false"
)
_EXPRESSION = (
    ast.Expression, ast.Constant, ast.Name, ast.Load, ast.Call, ast.keyword, ast.Compare, ast.BoolOp, ast.BinOp,
    ast.UnaryOp, ast.Subscript, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip
_LIBRARIES = re.compile(r"\.so(\.|$)|aotinductor")


def check(artefact: Artefact) -> None:
    """Raise :class:`RefusedModel` for a program that would do more than compute: call anything but operators, evaluate
    text that is not a formula, open a pickle or a compiled library."""
    torch = library("torch")
    with zipfile.ZipFile(io.BytesIO(artefact.data)) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries if entry.filename.endswith(".json")) > MAX_JSON:
            raise ValueError("it unpacks to more than the limit")
        for entry in entries:
            if _LIBRARIES.search(entry.filename):
                raise _refused("a compiled library", artefact.name)
            if entry.filename.endswith(".json"):
                for what in _forbidden(json.loads(archive.read(entry))):
                    raise _refused(what, artefact.name)
            elif entry.filename.endswith(".pt"):
                try:
                    torch.load(io.BytesIO(archive.read(entry)), weights_only=True)
                except Exception:  # torch would open it as a pickle
                    raise _refused("a pickle", artefact.name) from None


def _refused(what: str, name: str) -> RefusedModel:
    return RefusedModel(
        f"refused {what} in {name}: an exported program may only compute with torch's own operators; "
        f"remove that part of the model and export it again"
    )


def _forbidden(content: Any) -> Iterator[str]:
    """Yield the parts of a program's description that do more than compute."""
    for part in parts(content):
        if isinstance(part, str):
            for inner in _nested_json(part):
                yield from _forbidden(inner)
        elif isinstance(part, dict):
            for target in (part.get("target"), part.get("as_operator")):
                if isinstance(target, str) and target.startswith(_LOOKED_UP) and not _TARGET.fullmatch(target):
                    yield target[:80]
            guards = part.get("guards_code")
            for text in (part.get("expr_str"), *(guards if isinstance(guards, list) else ())):
                if text is not None and not _is_formula(text):
                    yield "a text that is not a formula"
            if part.get("use_pickle"):
                yield "a pickle"
            if "default_factory_module" in part:
                yield f"{part['default_factory_module']}.{part.get('default_factory_name')}"[:80]


def _nested_json(text: str) -> list[Any]:
    """Parse JSON within JSON, which describes the structures of inputs and outputs."""
    if text[:1] in ("[", "{", '"'):
        try:
            return [json.loads(text)]
        except ValueError:
            return []
    return []


def _is_formula(text: Any) -> bool:
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return False
    for node in nodes:
        sizes = isinstance(node, ast.Attribute) and node.attr in ("size", "shape", "stride", "storage_offset")
        if not sizes and not isinstance(node, _EXPRESSION):
            return False
        if isinstance(node, ast.Name) and not _NAMES.fullmatch(node.id):
            return False
    return True


def opened(artefact: Artefact, threads: int) -> Opened:
    """Return the program, with the inputs and outputs that it was exported with."""
    torch = library("torch")
    restrict(threads)
    program = torch.export.load(io.BytesIO(artefact.data))
    functions = TorchFunctions(program.module())
    nodes = {node.name: node for node in program.graph.nodes}
    user = program.graph_signature
    inputs = tuple(_spec(name, nodes[name], artefact.name) for name in user.user_inputs if name in nodes)
    if not inputs or len(inputs) != len(user.user_inputs) or program.call_spec.in_spec.child(1).num_leaves:
        raise RefusedModel(
            f"{artefact.name} has inputs that are not tensors: export it with positional tensors as arguments"
        )
    shapes = {name: _example_shape(nodes[name].meta["val"]) for name in user.user_inputs}
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
