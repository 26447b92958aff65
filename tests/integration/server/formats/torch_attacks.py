"""PyTorch: exported programs that do more than compute are rejected, before torch sees them."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.opened import Opened
from mlmodel_server.formats.operators import allowed
from mlmodel_server.formats.table import library
from mlmodel_server.formats.torch_program import is_formula, operator
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Memory

torch = library("torch")
Module: Any = torch.nn.Module
ROWS = np.random.default_rng(7).random((20, 4)).astype(np.float32)
Files = dict[str, bytes]
Change = Callable[[Files, Path], None]
PROGRAM = "models/model.json"
WEIGHTS, CONSTANTS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"


class Small(Module):  # type: ignore[misc]
    """Has weights, a buffer, a constant and a text as an argument."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)
        self.register_buffer("scale", torch.ones(3))
        self.shift = torch.ones(3)

    def forward(self, rows: Any) -> Any:
        return torch.nn.functional.gelu(self.layer(rows) * self.scale + self.shift, approximate="tanh")


@cache
def members() -> Files:
    buffer, auto = io.BytesIO(), torch.export.Dim.AUTO
    program = torch.export.export(Small().eval(), (torch.ones(2, 4),), dynamic_shapes=({0: auto},))
    torch.export.save(program, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def archive(files: Files, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as target:
        for name, content in files.items():
            target.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def opened(data: bytes) -> Opened:
    return load(Memory({"m.pt2": data}, "m.pt2")).opened


def program(change: Callable[[Any, Path], None]) -> Change:
    """Return a change of the program's description."""

    def changed(files: Files, mark: Path) -> None:
        content = json.loads(files[PROGRAM])
        change(content, mark)
        files[PROGRAM] = json.dumps(content).encode()

    return changed


def text(old: str, new: str) -> Change:
    """Return a change of every ``old`` in the text of the description; MARK in ``new`` is code that makes the mark."""

    def changed(files: Files, mark: Path) -> None:
        assert old in files[PROGRAM].decode()
        code = f"__import__('pathlib').Path('{mark}').touch()"
        files[PROGRAM] = files[PROGRAM].replace(old.encode(), new.replace("MARK", code).encode())

    return changed


def weights(name: str, change: Callable[[Any], None]) -> Change:
    def changed(files: Files, _: Path) -> None:
        content = json.loads(files[name])
        change(next(iter(content["config"].values())))
        files[name] = json.dumps(content).encode()

    return changed


class Touch:
    """Pickles as a call that creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def _pickled(member: str) -> Change:
    return lambda files, mark: files.__setitem__(member, pickle.dumps(Touch(mark)))


def _former_weights(files: dict[str, bytes], mark: Path) -> None:
    files.pop(WEIGHTS)
    _pickled("data/weights/model.pt")(files, mark)


def _opaque(files: Files, mark: Path) -> None:
    weights(CONSTANTS, lambda entry: entry.update(path_name="opaque_obj_0", use_pickle=True))(files, mark)
    files["data/constants/opaque_obj_0"] = pickle.dumps(Touch(mark))


def _pickled_weights(files: Files, mark: Path) -> None:
    weights(WEIGHTS, lambda entry: entry.update(use_pickle=True))(files, mark)
    files["data/weights/weight_0"] = pickle.dumps(Touch(mark))


def _expression(content: Any) -> Any:
    (size, _) = content["graph_module"]["graph"]["tensor_values"]["rows"]["sizes"]
    return size["as_expr"]


def _node(content: Any, index: int = 0) -> Any:
    return content["graph_module"]["graph"]["nodes"][index]


def _in_place(content: Any, _: Path) -> None:
    node = _node(content, 1)
    node["target"] = "torch.ops.aten.mul_.Tensor"
    node["inputs"][0]["arg"]["as_tensor"]["name"] = "b_scale"
    node["inputs"][1]["arg"]["as_tensor"]["name"] = "b_scale"


def _empty_record(files: Files, mark: Path) -> None:
    weights(WEIGHTS, lambda entry: entry["tensor_meta"].update(sizes=[{"as_int": 1 << 40}]))(files, mark)
    files["data/weights/weight_0"] = b""


LINEAR = '"torch.ops.aten.linear.default"'
SYMBOL = "Symbol('"
ATTACKS: dict[str, tuple[Change, str]] = {
    "a function of torch": (text(LINEAR, '"torch.hub.load"'), r"the operator torch\.hub\.load"),
    "an attribute of an operator": (
        text(LINEAR, '"torch.ops.aten.linear.__class__"'),
        r"the operator torch\.ops\.aten\.linear\.__class__",
    ),
    "a method of an operator": (text(LINEAR, '"torch.ops.aten.linear.overloads"'), "the operator torch"),
    "a loader of libraries": (text(LINEAR, '"torch.ops.load_library"'), r"the operator torch\.ops\.load_library"),
    "a module of torch": (text(LINEAR, '"torch.os.system"'), r"the operator torch\.os\.system"),
    "python's operator": (text(LINEAR, '"_operator.methodcaller"'), r"the operator _operator\.methodcaller"),
    "a file as a tensor": (text(LINEAR, '"torch.ops.aten.from_file.default"'), "the operator torch.*from_file"),
    "saving": (text(LINEAR, '"torch.ops.aten.save.default"'), "the operator torch.*save"),
    "memory that was not initialised": (text(LINEAR, '"torch.ops.aten.empty_like.default"'), "the operator .*empty"),
    "memory of another tensor": (text(LINEAR, '"torch.ops.aten.as_strided.default"'), "the operator .*as_strided"),
    "writing into an argument": (text(LINEAR, '"torch.ops.aten.linear.out"'), "the operator .*out"),
    "another library of operators": (text(LINEAR, '"torch.ops.quantized.linear.default"'), "the operator .*quantized"),
    "python operators": (text(LINEAR, '"torch.ops.prims.empty.default"'), "the operator .*prims"),
    "an extension": (text(LINEAR, '"#os.system"'), "the operator #os"),
    "an operator as an argument": (
        program(lambda content, _: _node(content)["inputs"][0].update(arg={"as_operator": "torch.hub.load"})),
        r"the operator torch\.hub\.load",
    ),
    "a shape": (
        program(
            lambda content, mark: _expression(content).update(expr_str=f"__import__('pathlib').Path('{mark}').touch()")
        ),
        "a text that is not a formula",
    ),
    "a shape of too many digits": (
        program(lambda content, _: _expression(content).update(expr_str="Pow(9, Pow(9, 9))")),
        "a text that is not a formula",
    ),
    "a guard": (text('"guards_code": []', '"guards_code": ["MARK"]'), "a text that is not a formula"),
    "the name of a tensor": (text('"linear"', '"linear = MARK; x"'), "a name that is not a name"),
    "the name of an input": (text('"rows"', '"rows=MARK"'), "a name that is not a name"),
    "the name of an argument": (
        program(lambda content, _: _node(content)["inputs"][0].update(name="input=print(), x", kind=2)),
        "a name that is not a name",
    ),
    "the name of a weight": (text('"layer.weight"', '"layer.__class__"'), "a name that is not a name"),
    "a text without a rule": (
        program(lambda content, _: _node(content).update(hook="os.system")),
        "a text under 'hook'",
    ),
    "an object": (
        program(lambda content, _: _node(content)["inputs"][0].update(arg={"as_custom_obj": {"name": "a"}})),
        "an object that is not a tensor",
    ),
    "a structure": (
        program(
            lambda content, _: content["graph_module"]["module_call_graph"][0]["signature"].update(
                in_spec=json.dumps([1, {"type": "os.system", "context": None, "children_spec": []}])
            )
        ),
        r"the structure 'os\.system'",
    ),
    "an operator that changes weights": (program(_in_place), "an operator that changes weights"),
    "weights as a pickle": (_pickled_weights, "a pickle"),
    "a constant as a pickle": (_opaque, "a pickle"),
    "weights of a former version": (
        _former_weights,
        "weights in a format of former versions",
    ),
    "weights from another folder": (
        weights(WEIGHTS, lambda entry: entry.update(path_name="../../archive_version")),
        "weights that are not tensors",
    ),
    "weights larger than the file": (_empty_record, "weights that are larger than the file"),
    "a compiled library": (
        lambda files, _: files.update({"data/aotinductor/model/a.so": b"\x7fELF"}),
        "a compiled library",
    ),
    "a second program": (
        lambda files, _: files.update({"models/other.json": files[PROGRAM]}),
        "programs beside the one called model",
    ),
}


@pytest.mark.parametrize("name", list(ATTACKS))
def test_a_program_that_does_more_than_compute_is_rejected(name: str, tmp_path: Path) -> None:
    mark, files = tmp_path / "ran", dict(members())
    change, what = ATTACKS[name]
    change(files, mark)
    with pytest.raises(RefusedModel, match=rf"refused {what}.* in m\.pt2: an exported program may only compute"):
        opened(archive(files))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["a shape", "the name of an input", "a constant as a pickle", "weights as a pickle"])
def test_the_payload_runs_with_torch(name: str, tmp_path: Path) -> None:
    mark, files = tmp_path / "ran", dict(members())
    ATTACKS[name][0](files, mark)
    try:
        torch.export.load(io.BytesIO(archive(files))).module()(torch.from_numpy(ROWS))
    except Exception as error:
        print(f"torch raised {type(error).__name__} after that")
    assert mark.exists()


def test_parts_that_predictions_do_not_need_are_not_opened(tmp_path: Path) -> None:
    mark, files = tmp_path / "ran", dict(members())
    _pickled("data/sample_inputs/model.pt")(files, mark)
    files["extra/notes"] = b"text"
    expected = opened(archive(members())).functions(ROWS, ["predict"])[0]
    np.testing.assert_array_equal(opened(archive(files)).functions(ROWS, ["predict"])[0], expected)
    assert not mark.exists()


def test_an_archive_that_two_parsers_could_read_differently_is_rejected() -> None:
    with pytest.raises(RefusedModel, match="refused compressed members"):
        opened(archive(members(), zipfile.ZIP_DEFLATED))
    buffer = io.BytesIO(archive(members()))
    with zipfile.ZipFile(buffer, "a") as target, pytest.warns(UserWarning, match="Duplicate"):
        target.writestr(f"archive/{PROGRAM}", members()[PROGRAM])
    with pytest.raises(RefusedModel, match="refused a member that is there twice"):
        opened(buffer.getvalue())


def test_what_is_opened_was_written_from_what_was_checked() -> None:
    """A description that lists an operator twice has one meaning only after it was written anew."""
    files = dict(members())
    files[PROGRAM] = files[PROGRAM].replace(LINEAR.encode(), b'"torch.hub.load", "target": ' + LINEAR.encode())
    opened(archive(files))


class Crossed(Module):  # type: ignore[misc]
    """Calls an operator with shapes that do not belong together."""

    def __init__(self, call: Callable[[Any], Any]) -> None:
        super().__init__()
        self.call = call

    def forward(self, rows: Any) -> Any:
        return self.call(rows)


CROSSED: dict[str, Callable[[Any], Any]] = {
    "attention": lambda rows: torch.ops.aten.scaled_dot_product_attention(
        rows.new_zeros(1, 1, 2, 8), rows.new_zeros(1, 1, 2, 8), rows.new_ones(1, 1, 4000, 8)
    ),
    "lstm": lambda rows: torch.ops.aten.lstm.input(
        rows.new_zeros(2, 3, 4),
        [rows.new_ones(1, 1, 5)] * 2,
        [rows.new_zeros(20, 4), rows.new_zeros(20, 5), rows.new_zeros(20), rows.new_zeros(20)],
        True,
        1,
        0.0,
        False,
        False,
        True,
    )[0],
}


@pytest.mark.parametrize("name", list(CROSSED))
def test_shapes_that_a_kernel_trusts_are_checked(name: str) -> None:
    buffer = io.BytesIO()
    try:
        torch.export.save(torch.export.export(Crossed(CROSSED[name]), (torch.ones(2, 4),)), buffer)
    except Exception as error:
        pytest.skip(f"this torch does not export it: {type(error).__name__}")
    with pytest.raises(RefusedModel, match="have shapes that do not belong together"):
        opened(buffer.getvalue())


FORMULAS = {
    "s77": True,
    "2*s39 + 1": True,
    "Symbol('s77', positive=True, integer=True)": True,
    "Mod(s0, 4)": True,
    "Pow(s0, 2)": True,
    "s0**-1": True,
    "L['rows'].size()[0] >= 2": True,
    "9**9**9": False,
    "PowByNatural(PowByNatural(9, 8), 8)": False,
    "Pow(9, s0)": False,
    "LShift(1, 1000000000000)": False,
    "1 << 99": False,
    "().__class__": False,
    "open('x')": False,
    "[x for x in (1,)]": False,
    "lambda: 1": False,
    "f'{s0}'": False,
    "Symbol('a b')": False,
    "(" * 300 + "s0" + ")" * 300: False,
}


@pytest.mark.parametrize("formula", list(FORMULAS))
def test_only_small_arithmetic_is_a_formula(formula: str) -> None:
    assert is_formula(formula) is FORMULAS[formula]


def test_no_allowed_operator_reaches_beyond_its_tensors() -> None:
    """Of the installed torch: no operator with a storage, a file or an object among its arguments, none that returns
    memory that was not initialised, and no gradient."""
    names = torch._C._dispatch_get_all_op_names()
    listed = [name for name in names if not operator(_target(name))]
    print(f"{len(listed)} of {len(names)} overloads of operators are allowed")
    assert {name[6:].partition(".")[0] for name in listed} == allowed("torch"), "each entry of the list exists"
    forbidden = (
        "empty",
        "resize",
        "set_",
        "as_strided",
        "from_file",
        "save",
        "_print",
        "backward",
        "sparse",
        "quantize",
        "record_stream",
        "storage",
        "_foobar",
        "nested",
        "unpool",
        "packed",
        "mkldnn",
        "cuda",
        "fused",
    )
    texts = {
        "msg",
        "assert_msg",
        "padding",
        "rounding_mode",
        "equation",
        "norm",
        "approximate",
        "UPLO",
        "ord",
        "mode",
        "driver",
        "indexing",
        "interpolation",
        "reduce",
        "side",
        "pad_mode",
    }
    for name in listed:
        base, _, overload = name.partition(".")
        assert not any(word in base for word in forbidden), name
        for argument in torch._C._get_schema(base, overload).arguments:
            kind = str(argument.type)
            assert not any(word in kind for word in ("Storage", "Stream", "__torch__", "Any")), (name, kind)
            assert "str" not in kind or argument.name in texts, (name, argument.name)
            assert not argument.is_out, name


def _target(name: str) -> str:
    space, _, rest = name.partition("::")
    base, _, overload = rest.partition(".")
    return f"torch.ops.{space}.{base}.{overload or 'default'}"
