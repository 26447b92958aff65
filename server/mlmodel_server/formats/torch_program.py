"""Check the description of an exported PyTorch program, and write it anew from what was checked.

torch imports what the description names, evaluates its formulas as Python and writes its names into generated code. So
every text of the description has a rule, by the key that it stands under; a text without a rule is refused.
"""

from __future__ import annotations

import ast
import json
import keyword
import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from mlmodel_server.formats.operators import allowed
from mlmodel_server.formats.table import library

Refuse = Callable[[str], Exception]

_ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
# Operators on sizes, and those that set how the operators after them compute.
_OTHERS = frozenset(
    (
        "torch.ops.higher_order.wrap_with_set_grad_enabled", "torch.ops.higher_order.wrap_with_autocast",
        "torch.ops.higher_order.cond", "torch._C._set_grad_enabled",
        "torch.amp.autocast_mode._enter_autocast", "torch.amp.autocast_mode._exit_autocast",
        *(f"torch.sym_{name}" for name in ("int", "float", "ite", "max", "min", "not", "sum", "sqrt")),
        *(f"torch._sym_{name}" for name in ("sqrt", "log2")),
        *(f"_operator.{name}" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "neg", "pos", "abs", "eq",
                                           "ne", "lt", "le", "gt", "ge", "and_", "or_", "not_", "getitem")),
        *(f"math.{name}" for name in ("ceil", "floor", "trunc", "sqrt", "log", "log2", "exp")),
    )
)  # fmt: skip

_NAMES = re.compile(
    r"[suz]\w*\d+|L|Symbol|Integer|Float|Rational|Add|Mul|Max|Min|Mod|PythonMod|FloorDiv|CeilDiv|CleanDiv|IntTrueDiv"
    r"|FloatTrueDiv|ModularIndexing|Where|Identity|ToFloat|\w+ToInt|TruncToFloat|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|floor"
    r"|ceiling|oo|int_oo|true|false"
)
_POWERS = frozenset(("Pow", "PowByNatural"))
_EXPRESSION = (
    ast.Expression, ast.Constant, ast.Name, ast.Load, ast.Call, ast.keyword, ast.Compare, ast.BoolOp, ast.BinOp,
    ast.UnaryOp, ast.Subscript, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip
_MAX_FORMULA = 2_000
_MAX_POWER = 8
_MAX_NUMBER = 1 << 63

_CONTAINERS = frozenset(("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"))
_MAX_TEXT = 10_000


def checked_program(text: bytes, refuse: Refuse) -> bytes:
    """Return the description of a program, without what only debuggers read. Raise ``refuse(part)`` for a part that
    does more than compute."""
    content = json.loads(text)
    _only(content, {"graph_module": dict}, refuse)
    _strip(content)
    _walk(content, refuse)
    _check_effects(content["graph_module"], refuse)
    return json.dumps(content).encode()


def _only(content: Any, required: dict[str, type], refuse: Refuse) -> None:
    if not isinstance(content, dict) or any(not isinstance(content.get(key), kind) for key, kind in required.items()):
        raise refuse("a damaged description")


def _strip(content: Any) -> None:
    """Empty, in place, what describes the source of a program: torch does not need it to compute."""
    stack = [content]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            if "metadata" in part:
                part["metadata"] = {}
            stack += part.values()
        elif isinstance(part, list):
            stack += part


def _walk(content: Any, refuse: Refuse) -> None:
    stack: list[tuple[str, Any]] = [("", content)]
    while stack:
        key, part = stack.pop()
        if isinstance(part, dict):
            if key in _EMPTY and part:
                raise refuse(f"{key} that are not tensors")
            for inner, value in part.items():
                if not _is_path(inner) and not (key == "range_constraints" and is_formula(inner)):
                    raise refuse("a name that is not a name")
                if inner in _REFUSED and value is not None:
                    raise refuse(_REFUSED[inner])
                stack.append((inner, value))
        elif isinstance(part, list):
            stack += ((key, inner) for inner in part)
        elif isinstance(part, str):
            rule = _RULES.get(key)
            problem = rule(part) if rule else f"a text under {key[:40]!r}"
            if problem:
                raise refuse(problem)


_EMPTY = frozenset(("custom_obj_values", "script_obj_values", "treespec_namedtuple_fields"))
_REFUSED = {
    "as_custom_obj": "an object that is not a tensor",
    "custom_obj": "an object that is not a tensor",
    "token": "an operator with effects",
    "buffer_mutation": "an operator that changes weights",
    "parameter_mutation": "an operator that changes weights",
    "user_input_mutation": "a change of its inputs",
    "as_triton_kernel": "a compiled kernel",
}


def _is_name(text: str) -> bool:
    return text.isascii() and text.isidentifier() and not keyword.iskeyword(text) and not text.startswith("__")


def _is_path(text: str) -> bool:
    """Whether a text is a name, or names and numbers with dots between them."""
    return len(text) < 1_000 and all(
        part.isascii() and re.fullmatch(r"\w+", part) and not part.startswith("__") for part in text.split(".")
    )


def _name(text: str) -> str:
    return "" if not text or _is_name(text) else "a name that is not a name"


def _path(text: str) -> str:
    return "" if not text or _is_path(text) else "a name that is not a name"


def _literal(text: str) -> str:
    return "" if len(text) <= _MAX_TEXT and text.isprintable() else "a text that is not printable"


def _word(text: str) -> str:
    return "" if re.fullmatch(r"[\w.+:-]{0,100}", text) else "a text that is not a word"


def _formula(text: str) -> str:
    return "" if is_formula(text) else "a text that is not a formula"


def operator(target: str) -> str:
    """Return the empty text if ``target`` is allowed, else what to refuse."""
    if target in _OTHERS:
        return ""
    match = _ATEN.fullmatch(target)
    if match and match[1] in allowed("torch") and _is_pure(match[1], match[2]):
        return ""
    return f"the operator {target[:80]}" if target.isprintable() else "an operator"


@cache
def _is_pure(name: str, overload: str) -> bool:
    """Whether the installed torch has the overload, and it does not write into a given tensor (``out=``)."""
    try:
        schema = library("torch")._C._get_schema(f"aten::{name}", "" if overload == "default" else overload)
    except RuntimeError:  # it does not exist
        return False
    return not any(argument.is_out for argument in schema.arguments)


def _structure(text: str) -> str:
    """Check a structure of inputs or outputs, which is JSON: tuples, lists and dictionaries."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return "a structure that is not JSON"
    stack = [content[1]] if isinstance(content, list) and len(content) == 2 and isinstance(content[0], int) else [None]
    while stack:
        part = stack.pop()
        if not isinstance(part, dict) or not {"type", "context", "children_spec"} >= part.keys():
            return "a structure that is not of tuples, lists and dictionaries"
        if part.get("type") is not None and part["type"] not in _CONTAINERS:
            return f"the structure {str(part['type'])[:80]!r}"
        if not _is_context(part.get("context")) or not isinstance(part.get("children_spec"), list):
            return "a structure that is not of tuples, lists and dictionaries"
        stack += part["children_spec"]
    return ""


def _is_context(context: Any) -> bool:
    """Whether the context of a container is none, or the keys of a dictionary as JSON."""
    if context is None:
        return True
    if not isinstance(context, str) or len(context) > _MAX_TEXT * 10:
        return False
    try:
        keys = json.loads(context)
    except (ValueError, RecursionError):
        return False
    return keys is None or (
        isinstance(keys, list) and all(isinstance(key, (str, int)) and not _literal(str(key)) for key in keys)
    )


_RULES: dict[str, Callable[[str], str]] = {
    "target": operator,
    "as_operator": operator,
    "expr_str": _formula,
    "guards_code": _formula,
    **dict.fromkeys(("in_spec", "out_spec"), _structure),
    **dict.fromkeys(("as_string", "as_strings"), _literal),
    **dict.fromkeys(
        ("name", "as_name", "user_input_name", "forward_arg_names", "as_names"),
        _name,
    ),
    **dict.fromkeys(
        ("parameter_name", "buffer_name", "tensor_constant_name", "fqn"),
        _path,
    ),
    **dict.fromkeys(
        ("type", "dialect", "verifiers", "torch_version", "as_float", "min_val", "max_val", "dtype", "layout"),
        _word,
    ),
}
"""What a text must be, by the key that it stands under: each rule returns the empty text, or what to refuse."""


def is_formula(text: Any) -> bool:
    """Whether ``text`` is arithmetic on sizes, small enough to be evaluated."""
    if not isinstance(text, str) or len(text) > _MAX_FORMULA or text.count("(") + text.count("[") > 200:
        return False
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(_is_arithmetic(node) for node in ast.walk(tree))


def _is_arithmetic(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in ("size", "shape", "stride", "storage_offset")
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _POWERS:
        return _is_small_power(node.args)
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Pow, ast.LShift, ast.RShift)):
        return isinstance(node.op, ast.Pow) and _is_small_power([node.left, node.right])
    if isinstance(node, ast.Name):
        return node.id in _POWERS or _NAMES.fullmatch(node.id) is not None
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return _is_path(node.value)
        return isinstance(node.value, (bool, int, float)) and abs(node.value) < _MAX_NUMBER
    return isinstance(node, _EXPRESSION)


def _is_small_power(arguments: Iterable[ast.expr]) -> bool:
    """Whether a power has a small exponent and no power within: nested powers have too many digits."""
    base, *exponents = arguments
    inner = (part for argument in (base, *exponents) for part in ast.walk(argument))
    nested = any(
        (isinstance(part, ast.Name) and part.id in _POWERS)
        or (isinstance(part, ast.BinOp) and isinstance(part.op, ast.Pow))
        for part in inner
    )
    exponent = exponents[0] if len(exponents) == 1 else None
    if isinstance(exponent, ast.UnaryOp) and isinstance(exponent.op, ast.USub):
        exponent = exponent.operand
    number = exponent.value if isinstance(exponent, ast.Constant) else None
    return isinstance(number, int) and number <= _MAX_POWER and not nested


def _check_effects(module: dict[str, Any], refuse: Refuse) -> None:
    """Refuse operators that change weights in place: an answer would depend on the requests before."""
    _only(module, {"signature": dict, "graph": dict}, refuse)
    signature = module["signature"]
    _only(signature, {"input_specs": list}, refuse)
    kept = set()
    for spec in signature["input_specs"]:
        for kind, described in spec.items():
            if kind != "user_input" and isinstance(described, dict):
                argument = described.get("arg")
                kept.add(argument.get("name") if isinstance(argument, dict) else None)
    _only(module["graph"], {"nodes": list}, refuse)
    for node in module["graph"]["nodes"]:
        _only(node, {"target": str, "inputs": list}, refuse)
        match = _ATEN.fullmatch(node["target"])
        name = match[1] if match else ""
        if name.endswith("_") and not name.endswith("__") and node["inputs"]:
            argument = node["inputs"][0].get("arg", {}).get("as_tensor", {})
            if isinstance(argument, dict) and argument.get("name") in kept:
                raise refuse("an operator that changes weights")
