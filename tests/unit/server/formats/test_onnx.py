"""ONNX: onnxruntime gets what was read and checked, and a file cannot take much memory or time."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlmodel_server.engine.model import model_of
from mlmodel_server.errors import RefusedModel, RequestError
from mlmodel_server.formats import onnx as onnx_format
from mlmodel_server.formats import onnx_operators, onnx_sizes, trial
from mlmodel_server.formats.onnx_graph import rewritten
from mlmodel_server.formats.opened import Opened
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Memory
from mlmodel_server.tensors import InferRequest, Tensor

pytestmark = pytest.mark.models

FLOAT, INT64, BOOL = int(TensorProto.FLOAT), int(TensorProto.INT64), int(TensorProto.BOOL)
ADD = helper.make_node("Add", ["x", "w"], ["y"])
WEIGHTS = helper.make_tensor("w", FLOAT, [2], [1.0, 2.0])


def info(name: str, kind: int = FLOAT, shape: Any = (None, 2)) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes: Any = (ADD,), weights: Any = (WEIGHTS,), functions: Any = (), **graph: Any) -> Any:
    made = helper.make_graph(
        list(nodes), "g", **{"inputs": [info("x")], "outputs": [info("y")]} | graph, initializer=list(weights)
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in (("", 17), ("own", 1), ("com.microsoft", 1))]
    return helper.make_model(made, opset_imports=opsets, ir_version=9, functions=list(functions))


def opened(data: bytes, **options: Any) -> Opened:
    return load(Memory({"model.onnx": data}, "model.onnx"), **options).opened


def refused(made: Any, words: str) -> None:
    with pytest.raises(RefusedModel, match=words):
        opened(made if isinstance(made, bytes) else made.SerializeToString())


def varint(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def field(number: int, content: bytes, tag: bytes | None = None) -> bytes:
    return (tag or varint(number << 3 | 2)) + varint(len(content)) + content


def in_another_file(name: str = "weights.bin") -> Any:
    tensor = helper.make_tensor("w", FLOAT, [2], b"\0" * 8, raw=True)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=name)
    return tensor


def sparse() -> Any:
    return helper.make_sparse_tensor(WEIGHTS, helper.make_tensor("at", INT64, [2], [0, 1]), [1 << 40])


def function(name: str, *nodes: Any, domain: str = "own") -> Any:
    return helper.make_function(domain, name, ["a"], ["b"], list(nodes), [helper.make_opsetid("", 17)])


def call(name: str, source: str = "x", target: str = "y") -> Any:
    return helper.make_node(name, [source], [target], domain="own")


def nested(depth: int) -> Any:
    node = helper.make_node("Identity", ["x"], ["y"])
    for _ in range(depth):
        graph = helper.make_graph([node], "b", [], [info("y")])
        node = helper.make_node("If", ["t"], ["y"], then_branch=graph)
    return model([node], [helper.make_tensor("t", BOOL, [], [True])])


@pytest.mark.attack(held=True)
def test_the_bytes_that_onnxruntime_gets_have_nothing_but_the_graph() -> None:
    made = model()
    made.doc_string, made.producer_name = "text", "me"
    made.metadata_props.add(key="ort_config", value="{}")
    made.metadata_props.add(key="domain", value="ours")
    made.training_info.add().algorithm.CopyFrom(model(weights=[in_another_file()]).graph)
    made.graph.doc_string = made.graph.node[0].doc_string = "text"
    made.graph.value_info.append(info("y", shape=(7, 7)))
    found = onnx.load_from_string(rewritten(made.SerializeToString(), "model.onnx")[0])
    expected = model()
    expected.producer_name = "me"
    expected.metadata_props.add(key="domain", value="ours")
    assert found == expected


@pytest.mark.attack(held=True)
def test_a_field_that_two_parsers_read_differently_is_refused() -> None:
    """Its tag has a bit beyond 32: some parsers see field 13, external data, and others an unknown field."""
    entry = field(1, b"location") + field(2, b"weights.bin")
    tensor = (
        b"\x08\x02\x10\x01"
        + field(8, b"w")
        + field(13, entry, tag=b"\xea\x80\x80\x80\x10")
        + b"\xf0\x80\x80\x80\x10\x01"
    )
    graph = model(weights=[]).graph.SerializeToString() + field(5, tensor)
    refused(b"\x08\x09" + field(7, graph) + field(8, b"\x10\x11"), r"refused external data|is damaged")


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    "extra",
    [
        field(1000, b"x"),
        varint(7 << 3) + b"\x01",
        b"\xa3\x06\xa4\x06",
        b"\x08\x89\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    ],
    ids=["unknown field", "wrong wire type", "group", "varint of 11 bytes"],
)
def test_what_the_schema_does_not_have_is_refused(extra: bytes) -> None:
    refused(model().SerializeToString() + extra, "does not know|is damaged")


@pytest.mark.attack(held=True)
def test_two_graphs_are_one_for_every_parser() -> None:
    """Protobuf merges them: the second could bring weights in another file to the first."""
    second = onnx.GraphProto(initializer=[in_another_file()])
    refused(model(weights=[]).SerializeToString() + field(7, second.SerializeToString()), "refused external data")
    plain = onnx.GraphProto(initializer=[WEIGHTS])
    found = opened(model(weights=[]).SerializeToString() + field(7, plain.SerializeToString()))
    assert found.functions(np.zeros((1, 2), np.float32), ["y"])[0].tolist() == [[1, 2]]


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    "made",
    [
        lambda: model(weights=[in_another_file("/etc/hostname")]),
        lambda: model([helper.make_node("Constant", [], ["w"], value=in_another_file()), ADD], []),
        lambda: model([ADD, helper.make_node("Constant", [], ["c"], value=in_another_file())]),
        lambda: model(functions=[function("f", helper.make_node("Constant", [], ["b"], value=in_another_file()))]),
    ],
    ids=["weights", "constant", "constant without use", "function without use"],
)
def test_weights_in_another_file_are_refused(made: Callable[[], Any]) -> None:
    refused(made(), "refused external data in model.onnx: save the model as one file")


@pytest.mark.attack(held=True)
def test_a_trusted_file_reads_no_other_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.array([3, 4], np.float32).tofile(tmp_path / "weights.bin")
    monkeypatch.chdir(tmp_path)
    for name in ("weights.bin", str(tmp_path / "weights.bin"), f"../{tmp_path.name}/weights.bin"):
        data = model(weights=[in_another_file(name)]).SerializeToString()
        with pytest.raises(Exception, match="xternal"):
            onnx_format.session(data, 1)


@pytest.mark.attack(held=True)
def test_a_file_in_onnxruntimes_own_format_is_refused(tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(model().SerializeToString(), options, providers=["CPUExecutionProvider"])
    data = (tmp_path / "model.ort").read_bytes()
    assert data[4:8] == b"ORTM"
    with pytest.raises(ValueError, match="not an ONNX model"):
        rewritten(data, "model.onnx")
    with pytest.raises(Exception, match="INVALID_PROTOBUF"):
        onnx_format.session(data, 1)


def test_the_list_of_operators_is_that_of_the_installed_version() -> None:
    schemas: dict[str, set[str]] = {}
    for schema in onnx.defs.get_all_schemas():
        schemas.setdefault(schema.domain, set()).add(schema.name)
    assert schemas[""] == onnx_operators.OPERATORS[""] | onnx_operators.REFUSED, "decide about each new operator"
    assert schemas["ai.onnx.ml"] == onnx_operators.OPERATORS["ai.onnx.ml"], "decide about each new operator"
    known = frozenset().union(*onnx_operators.OPERATORS.values())
    assert known >= {*onnx_operators.SIZED, *onnx_operators.DRAWN, *onnx_operators.SAME_OR_LESS}


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    ("domain", "name"),
    [("", "ImageDecoder"), ("com.microsoft", "EPContext"), ("com.microsoft", "Tokenizer"), ("own", "Add")],
)
def test_an_operator_that_is_not_listed_is_refused(domain: str, name: str) -> None:
    branch = helper.make_graph([helper.make_node(name, ["x"], ["b"], domain=domain)], "b", [], [info("b")])
    node = helper.make_node("If", ["t"], ["y"], then_branch=branch, else_branch=branch)
    made = model([node], [helper.make_tensor("t", BOOL, [], [True])])
    refused(
        made, rf"refused the operator .*{name} in model.onnx: export the model with the operators of the ONNX standard"
    )


def tensor(**changes: Any) -> Any:
    made = numpy_helper.from_array(np.array([1, 2], np.float32), "w")
    for name, value in changes.items():
        made.ClearField(name)
        getattr(made, name).extend(value) if isinstance(value, list) else setattr(made, name, value)
    return made


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    "made",
    [
        tensor(dims=[3]), tensor(dims=[1 << 31]), tensor(dims=[-2]), tensor(dims=[-1, -2]),
        tensor(dims=[1 << 20, 1 << 20]),
        tensor(raw_data=b""), tensor(raw_data=b"\0" * 7), tensor(float_data=[1.0, 2.0]), tensor(data_type=11),
        tensor(data_type=0), tensor(data_type=99), tensor(data_type=8), tensor(data_type=14),
    ],
    ids=["longer", "too large", "negative", "product of negatives", "1 TiB", "empty", "cut", "twice", "doubles", "none",
         "unknown", "text", "complex"],
)  # fmt: skip
def test_a_tensor_has_exactly_the_data_of_its_shape(made: Any) -> None:
    refused(model(weights=[made]), "refused a tensor")


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: model(weights=[WEIGHTS, WEIGHTS]), "two tensors of one name"),
        (lambda: model(weights=[], sparse_initializer=[sparse()]), "refused the part sparse_initializer"),
        (lambda: model([helper.make_node("Constant", [], ["w"], sparse_value=sparse()), ADD], []),
         "refused the part sparse"),
        (lambda: nested(25), "refused graphs nested too deep"),
        (lambda: model([call("f")], [], [function("f", call("f", "a", "b"))]), "functions nested too deep"),
        (lambda: model([call("f")], [], [function("f", ADD), function("f", ADD)]), "a function with the name"),
        (lambda: model(functions=[function("Add", ADD, domain="")]), "a function with the name of an operator"),
        (lambda: model(inputs=[info("x", shape=(0, 2))]), "refused an input without numbers"),
        (lambda: model(inputs=[info("x", shape=(1 << 15, 1 << 15))]), r"refused inputs of 1,073,741,824 numbers"),
    ],
)  # fmt: skip
def test_a_graph_that_can_be_read_in_two_ways_or_grows_is_refused(made: Callable[[], Any], words: str) -> None:
    refused(made(), words)


@pytest.mark.attack(held=True)
def test_functions_that_expand_to_a_billion_operators_are_refused() -> None:
    functions = [function("f0", helper.make_node("Neg", ["a"], ["b"]))]
    for level in range(1, 10):
        calls = [call(f"f{level - 1}", "a", f"b{n}" if n else "b") for n in range(10)]
        functions.append(function(f"f{level}", *calls))
    refused(model([call("f9")], [], functions), "more than 1,000,000 operators")


def attribute(**fields: Any) -> Any:
    made = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=1)
    for name, value in fields.items():
        setattr(made.attribute[0], name, value)
    return made


@pytest.mark.parametrize("node", [attribute(f=1.0), attribute(type=1), attribute(s=b"x"), attribute(type=0)])
def test_an_attribute_has_one_value(node: Any) -> None:
    refused(model([node], []), "refused an attribute that can be read in two ways")


def loop(rounds: Any) -> Any:
    """Return a model with a loop; ``rounds`` is its first input."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Neg", ["state"], ["next"])],
        "body",
        [info("i", INT64, []), info("go", BOOL, []), info("state")],
        [info("on", BOOL, []), info("next")],
    )
    nodes = [*rounds[0], helper.make_node("Loop", [rounds[1], "", "x"], ["y"], body=body)]
    return model(nodes, rounds[2])


def ints(*values: int) -> Any:
    return helper.make_tensor("n", INT64, [len(values)] if len(values) != 1 else [], values)


SHAPE = helper.make_node("Shape", ["x"], ["s"])
ROWS = [SHAPE, helper.make_node("Gather", ["s", "zero"], ["n"]), helper.make_node("Cast", ["x"], ["v"], to=INT64)]
ZERO = helper.make_tensor("zero", INT64, [], [0])


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    ("rounds", "allowed"),
    [
        (([], "n", [ints(1000)]), True),
        ((ROWS[:2], "n", [ZERO]), True),
        (([], "n", [ints((1 << 63) - 1)]), False),
        (([helper.make_node("Identity", ["m"], ["n"])], "n", [helper.make_tensor("m", INT64, [], [1 << 40])]), False),
        (([], "", []), False),
        (([ROWS[2], helper.make_node("ReduceMax", ["v"], ["n"], keepdims=0)], "n", []), False),
    ],
    ids=["constant", "as many as rows", "endless", "endless in disguise", "until a condition", "from a value"],
)
def test_the_rounds_of_a_loop_are_bounded(rounds: Any, allowed: bool) -> None:
    made = loop(rounds)
    if allowed:
        assert opened(made.SerializeToString()).functions(np.ones((2, 2), np.float32), ["y"])[0].tolist() == [
            [1, 1],
            [1, 1],
        ]
    else:
        refused(made, "refused a loop in model.onnx: export the model with loops of at most 1,000,000 rounds")


def sized(operator: str, *inputs: str) -> Any:
    return model([ROWS[2], helper.make_node(operator, inputs, ["y"])], [ZERO, ints(2), WEIGHTS])


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    "made",
    [
        sized("Expand", "w", "v"), sized("Range", "zero", "v", "n"), sized("ConstantOfShape", "v"),
        sized("Tile", "w", "v"),
        sized("Pad", "x", "v"), sized("Resize", "x", "", "", "v"), sized("OneHot", "v", "v", "w"),
    ],
    ids=["Expand", "Range", "ConstantOfShape", "Tile", "Pad", "Resize", "OneHot"],
)  # fmt: skip
def test_no_value_of_a_request_decides_how_much_memory_it_takes(made: Any) -> None:
    refused(made, "values of a request would decide how much memory it takes")


LOWEST = -(1 << 63)
BOTH = {"inputs": [info("x", INT64, [None]), info("z", INT64, [None])], "outputs": [info("y", INT64, [None])]}


def divided(*nodes: Any, weights: Any = (), **graph: Any) -> Any:
    return model([*nodes, helper.make_node("Div", ["x", "z"], ["y"])], list(weights), **graph)


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    "made",
    [
        divided(**BOTH),
        divided(weights=[helper.make_tensor("z", INT64, [2], [3, -1])], **BOTH | {"inputs": BOTH["inputs"][:1]}),
        divided(
            helper.make_node("Sub", ["x", "n"], ["z"]), weights=[ints(2)], **BOTH | {"inputs": BOTH["inputs"][:1]}
        ),
        model([call("f")], [], [function("f", helper.make_node("Div", ["a", "a"], ["b"]))],
              inputs=BOTH["inputs"][:1], outputs=BOTH["outputs"]),
    ],
    ids=["by a value", "by -1", "by a number that is computed", "in a function"],
)  # fmt: skip
def test_whole_numbers_whose_division_would_end_the_server_are_not_divided(made: Any) -> None:
    refused(made, "refused a division of whole numbers in model.onnx: a request could end the server with it")


@pytest.mark.parametrize("columns", [[0, 1, 2], [0]])
def test_each_term_of_a_text_has_a_column(columns: list[int]) -> None:
    node = helper.make_node(
        "TfIdfVectorizer", ["x"], ["y"], max_gram_length=2, min_gram_length=1, max_skip_count=0, mode="TF",
        ngram_counts=[0, 2], ngram_indexes=columns, pool_int64s=[1, 2, 1, 2],
    )  # fmt: skip
    made = model([node], [], inputs=[info("x", INT64, [1, 4])], outputs=[info("y", FLOAT, None)])
    if len(columns) == 3:
        found = opened(made.SerializeToString()).functions(np.array([[1, 2, 1, 2]]), ["y"])
        assert found[0].tolist() == [[2, 2, 2]]
    else:
        refused(made, "refused a TfIdfVectorizer whose terms have no columns")


def test_what_is_no_danger_is_divided() -> None:
    whole = divided(weights=[helper.make_tensor("z", INT64, [2], [3, -2])], **BOTH | {"inputs": BOTH["inputs"][:1]})
    found = opened(whole.SerializeToString()).functions(np.array([LOWEST, 7]), ["y"])[0]
    assert found.tolist() == [LOWEST // 3 + 1, -3]  # rounded towards zero
    floating = divided(helper.make_node("Sqrt", ["x"], ["z"]))
    assert opened(floating.SerializeToString()).functions(np.full((1, 2), 4, np.float32), ["y"])[0].tolist() == [[2, 2]]
    half = divided(
        helper.make_node("Add", ["x", "x"], ["z"]), inputs=[info("x", int(TensorProto.FLOAT16))],
        outputs=[info("y", int(TensorProto.FLOAT16))],
    )  # fmt: skip
    assert opened(half.SerializeToString()).functions(np.ones((1, 2), np.float16), ["y"])[0].tolist() == [[0.5, 0.5]]


def test_memory_for_the_rows_that_the_server_predicts_at_its_start_is_limited() -> None:
    sizes = [
        SHAPE,
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        # Seven rows are too many: a busy machine predicts only a few.
        helper.make_node("Concat", ["n"] * 10, ["v"], axis=0),
        helper.make_node("ConstantOfShape", ["v"], ["c"]),
        helper.make_node("ReduceSum", ["c"], ["r"], keepdims=0),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    refused(model(sizes, [helper.make_tensor("zero", INT64, [1], [0])]), "takes more than 512 MiB of memory")


def test_sizes_may_come_from_shapes_and_constants() -> None:
    made = model(
        [SHAPE, helper.make_node("ConstantOfShape", ["s"], ["zeros"]), helper.make_node("Expand", ["w", "s"], ["e"]),
         helper.make_node("Add", ["e", "zeros"], ["y"])],
    )  # fmt: skip
    found = opened(made.SerializeToString()).functions(np.zeros((2, 2), np.float32), ["y"])
    assert found[0].tolist() == [[1, 2], [1, 2]]


def test_a_function_sees_what_is_known_of_its_arguments() -> None:
    body = function("grow", helper.make_node("ConstantOfShape", ["a"], ["b"]))
    good = model([SHAPE, call("grow", "s", "y")], [], [body])
    assert opened(good.SerializeToString()).functions(np.ones((1, 2), np.float32), ["y"])[0].tolist() == [[0, 0]]
    refused(model([ROWS[2], call("grow", "v", "y")], [], [body]), "refused the operator ConstantOfShape")


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("hidden", [False, True])
def test_a_small_file_cannot_take_much_memory(hidden: bool) -> None:
    """The constant is folded while onnxruntime opens the file, or grows while it predicts."""
    grow = helper.make_node("ConstantOfShape", ["n"], ["c"])
    reduce = helper.make_node("ReduceSum", ["c"], ["r"], keepdims=0)
    nodes = [grow, reduce, helper.make_node("Add", ["x", "r"], ["y"])]
    if hidden:
        nodes = [helper.make_node("Concat", ["x", "x"], ["d0"], axis=0)]
        nodes += [helper.make_node("Concat", [f"d{n}"] * 2, [f"d{n + 1}"], axis=0) for n in range(30)]
        nodes.append(helper.make_node("ReduceSum", ["d30"], ["y"], keepdims=1))
    made = model(nodes, [ints(25_000, 25_000)])
    assert len(made.SerializeToString()) < 2_000
    refused(
        made,
        "refused model.onnx: to open it and predict a few simple rows takes more than 512 MiB of memory; export a sma",
    )


@pytest.mark.attack(held=True)
def test_a_process_that_crashes_or_hangs_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RefusedModel, match="refused model: its library crashes when it opens it"):
        trial.tried(crash, "model", b"")
    monkeypatch.setattr(trial, "SECONDS", 1)
    with pytest.raises(RefusedModel, match="takes more than 1 s of CPU time"):
        trial.tried(forever, "model", b"")


def crash() -> bytes:
    faulthandler.disable()  # of pytest: it would report the crash
    os.abort()


def forever() -> bytes:
    while True:
        pass


def test_memory_that_python_asks_for_is_limited_too() -> None:
    with pytest.raises(RefusedModel, match="more than 512 MiB of memory"):
        trial.tried(lambda: bytes(1 << 30), "model", b"")
    assert trial.tried(lambda: b"x" * (1 << 20), "model", b"") == b"x" * (1 << 20)


def test_a_real_model_is_the_same_after_it_was_written_anew() -> None:
    rows = np.random.default_rng(3).random((5, 2)).astype(np.float32)
    data = model().SerializeToString()
    expected = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(["y"], {"x": rows})
    np.testing.assert_array_equal(opened(data).functions(rows, ["y"])[0], expected[0])


@pytest.mark.parametrize("shape", [(0, 1, 2), (5, 0, 2), (0, 0, 2)])
@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_a_request_without_numbers_is_rejected_before_the_model_sees_it(kind: str, shape: tuple[int, ...]) -> None:
    """GRU without a step and LSTM without a batch end the process."""
    gates = {"GRU": 3, "LSTM": 4}[kind]
    weights = [
        numpy_helper.from_array(np.ones(size, np.float32), name)
        for name, size in (("w", (1, 3 * gates, 2)), ("r", (1, 3 * gates, 3)))
    ]
    made = model(
        [helper.make_node(kind, ["x", "w", "r"], ["", "y"], hidden_size=3)],
        weights,
        inputs=[info("x", shape=("steps", "batch", 2))],
        outputs=[info("y", shape=None)],
    )
    served = model_of(opened(made.SerializeToString()), None)
    with pytest.raises(RequestError, match=r"input 'x': .*(send at least one number|send at least one row)"):
        served.infer(InferRequest(None, [Tensor("x", "FP32", np.zeros(shape, np.float32))], None))
    sound = served.infer(InferRequest(None, [Tensor("x", "FP32", np.zeros((5, 1, 2), np.float32))], None))
    assert sound.outputs[0].array.shape == (1, 1, 3)


def test_key_of_an_operator() -> None:
    assert onnx_sizes.key("ai.onnx", "Add", "") == onnx_sizes.key("", "Add", "")
