"""TensorFlow: SavedModels and Keras files that do more than compute are rejected, and what runs is what was checked."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats import tensor_bundle
from mlmodel_server.formats.opened import Opened
from mlmodel_server.formats.operators import allowed
from mlmodel_server.formats.table import library
from mlmodel_server.formats.tensorflow_common import tensorflow
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Memory

tf = tensorflow(1)
v1 = tf.compat.v1
Module: Any = tf.Module
ROWS = np.random.default_rng(7).random((20, 4)).astype(np.float32)
Files = dict[str, bytes]


def directory(write: Callable[[str], Any]) -> Files:
    with tempfile.TemporaryDirectory() as folder:
        write(f"{folder}/model")
        top = Path(folder, "model")
        return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}


def opened(files: Files, entry: str = "saved_model.pb", **options: Any) -> Opened:
    return load(Memory(files, entry), **options).opened


def answer(model: Opened, rows: Any = ROWS) -> Any:
    assert model.signature is not None
    (output,) = model.signature.outputs
    table = rows if model.signature.layout == "matrix" else {model.signature.inputs[0].name: rows}
    return model.functions(table, [output.name])[0]


def first(build: Callable[[Any], Any], initialise: Callable[[], Any] | None = None) -> Files:
    """Return a SavedModel of TensorFlow 1: ``build`` makes the output from the input."""

    def write(path: str) -> None:
        with tf.Graph().as_default(), v1.Session() as session:
            rows = v1.placeholder(tf.float32, (None, 4), name="rows")
            result = build(rows)
            start = initialise() if initialise else None
            session.run(v1.global_variables_initializer())
            v1.saved_model.simple_save(session, path, {"rows": rows}, {"y": result}, legacy_init_op=start)

    return directory(write)


def second(function: Callable[[Any], Any]) -> Files:
    """Return a SavedModel of TensorFlow 2 whose signature is ``function``."""

    class Model(Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, name="rows")])
        def answer(self, rows):  # type: ignore[no-untyped-def]
            return {"y": function(rows)}

    model = Model()
    return directory(lambda path: tf.saved_model.save(model, path, signatures={"serving_default": model.answer}))


def changed(files: Files, change: Callable[[Any], None]) -> Files:
    """Return the SavedModel after ``change`` of its graph."""
    model = library("tensorflow.core.protobuf.saved_model_pb2").SavedModel.FromString(files["saved_model.pb"])
    change(model.meta_graphs[0])
    return {**files, "saved_model.pb": model.SerializeToString()}


def weighted(rows: Any) -> Any:
    return rows @ v1.get_variable("w", (4, 3), use_resource=True, initializer=v1.ones_initializer())


def _after(effect: Any, value: Any) -> Any:
    with tf.control_dependencies([effect]):
        return tf.identity(value)


WRITERS: dict[str, Callable[[str, Any], Any]] = {
    "WriteFile": lambda path, rows: _after(tf.raw_ops.WriteFile(filename=path, contents="ran"), rows),
    "SaveV2": lambda path, rows: _after(
        tf.raw_ops.SaveV2(prefix=path, tensor_names=["a"], shape_and_slices=[""], tensors=[rows]), rows
    ),
    "Save": lambda path, rows: _after(tf.raw_ops.Save(filename=path, tensor_names=["a"], data=[rows]), rows),
    "SaveSlices": lambda path, rows: _after(
        tf.raw_ops.SaveSlices(filename=path, tensor_names=["a"], shapes_and_slices=[""], data=[rows]), rows
    ),
    "MergeV2Checkpoints": lambda path, rows: _after(
        tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=[path], destination_prefix=path), rows
    ),
    "RestoreV2": lambda path, rows: (
        rows + tf.raw_ops.RestoreV2(prefix=path, tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.float32])[0]
    ),
    "ReadFile": lambda path, rows: rows + tf.strings.to_number(tf.io.read_file(path)),
    "MatchingFiles": lambda path, rows: rows + tf.cast(tf.size(tf.io.matching_files(path)), tf.float32),
    "PrintV2": lambda path, rows: _after(tf.raw_ops.PrintV2(input="ran", output_stream=f"file://{path}"), rows),
    "Print": lambda _, rows: tf.raw_ops.Print(input=rows, data=[rows]),
    "ImmutableConst": lambda path, rows: (
        rows + tf.raw_ops.ImmutableConst(dtype=tf.float32, shape=[1], memory_region_name=path)
    ),
    "SummaryWriter": lambda _, rows: _after(tf.raw_ops.SummaryWriter(), rows),
    "LMDBReader": lambda _, rows: _after(tf.raw_ops.LMDBReader(), rows),
    "DebugIdentityV2": lambda path, rows: tf.raw_ops.DebugIdentityV2(
        input=rows, debug_urls=[f"file://{path}"], op_name="a", tensor_debug_mode=2
    ),
    "Empty": lambda _, rows: rows + tf.raw_ops.Empty(shape=[4], dtype=tf.float32),
    "FIFOQueueV2": lambda _, rows: _after(tf.raw_ops.FIFOQueueV2(component_types=[tf.float32]), rows),
    "Timestamp": lambda _, rows: rows + tf.cast(tf.timestamp(), tf.float32),
    "GetSessionTensor": lambda _, rows: rows + tf.raw_ops.GetSessionTensor(handle="a", dtype=tf.float32),
}


@pytest.mark.parametrize("version", [first, second])
@pytest.mark.parametrize("name", list(WRITERS))
def test_an_operator_that_is_not_listed_is_rejected(name: str, version: Any, tmp_path: Path) -> None:
    if version is second and name == "Print":
        pytest.skip("tf.function does not call it")
    files = version(lambda rows: WRITERS[name](str(tmp_path / "ran"), rows))
    with pytest.raises(RefusedModel, match=rf"refused the operator {name} in saved_model\.pb: a SavedModel may only"):
        opened(files)
    assert not list(tmp_path.iterdir())


def test_the_payload_writes_with_tensorflow(tmp_path: Path) -> None:
    """What a list of forbidden operators let pass: operators that save, in the graph of TensorFlow 1."""
    files = first(lambda rows: WRITERS["SaveV2"](str(tmp_path / "ran"), rows))
    answer(opened(files, trust="unsafe", allow_unsafe=True))
    assert list(tmp_path.iterdir())


def _writing(graph: Any, path: str, name: str) -> None:
    """Add a node that writes the file ``path``."""
    for constant, value in ((f"{name}_path", path), (f"{name}_content", "ran")):
        node = graph.node.add(name=constant, op="Const")
        node.attr["dtype"].type = tf.string.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    graph.node.add(name=name, op="WriteFile", input=[f"{name}_path", f"{name}_content"])


@pytest.mark.parametrize("where", ["restore", "main op", "initialise"])
def test_programs_that_predictions_do_not_need_never_run(where: str, tmp_path: Path) -> None:
    def add(meta: Any) -> None:
        _writing(meta.graph_def, str(tmp_path / "ran"), "evil")
        if where == "restore":
            nodes = {node.name: node for node in meta.graph_def.node}
            nodes[meta.saver_def.restore_op_name].input.append("^evil")
        elif where == "main op":
            meta.collection_def["saved_model_main_op"].node_list.value.append("evil")
        else:
            meta.signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"].name = "evil"

    files = changed(first(weighted), add)
    np.testing.assert_allclose(answer(opened(files)), ROWS.sum(1, keepdims=True).repeat(3, 1), rtol=1e-5)
    assert not list(tmp_path.iterdir())
    opened(files, trust="unsafe", allow_unsafe=True)
    assert list(tmp_path.iterdir()), "TensorFlow's own loader runs it"


def _function(meta: Any) -> Any:
    """Return the function that computes, in a SavedModel of TensorFlow 2."""
    return next(
        function
        for function in meta.graph_def.library.function
        if function.signature.name.startswith("__inference_answer")
    )


def _rename(meta: Any, new: str) -> None:
    """Give the function that computes the name of an operator."""
    function = _function(meta)
    old, function.signature.name = function.signature.name, new
    every = [meta.graph_def.node, *(other.node_def for other in meta.graph_def.library.function)]
    for node in (node for nodes in every for node in nodes):
        if node.attr["f"].func.name == old:
            node.attr["f"].func.name = new


def _recursive(meta: Any) -> None:
    function = _function(meta)
    call = function.node_def.add(name="again", op="PartitionedCall")
    call.attr["f"].func.name = function.signature.name
    for key in ("Tin", "Tout"):
        call.attr[key].list.SetInParent()


def _exponential(meta: Any) -> None:
    functions = meta.graph_def.library.function
    for level in range(60):
        added = functions.add()
        added.signature.name = f"level{level}"
        for index in range(2):
            call = added.node_def.add(name=f"call{index}", op="PartitionedCall")
            call.attr["f"].func.name = f"level{level + 1}" if level < 59 else _function(meta).signature.name
            for key in ("Tin", "Tout"):
                call.attr[key].list.SetInParent()
    call = _function(meta).node_def.add(name="more", op="PartitionedCall")
    call.attr["f"].func.name = "level0"
    del functions[-1].node_def[:]
    for key in ("Tin", "Tout"):
        call.attr[key].list.SetInParent()


def _constant(change: Callable[[Any], None]) -> Callable[[Any], None]:
    def changed_constant(meta: Any) -> None:
        node = _function(meta).node_def.add(name="more", op="Const")
        node.attr["dtype"].type = 1
        tensor = node.attr["value"].tensor
        tensor.dtype = 1
        tensor.float_val.append(1)
        change(tensor)

    return changed_constant


def _resource(tensor: Any) -> None:
    tensor.dtype = tf.resource.as_datatype_enum
    tensor.resource_handle_val.add(name="other", container="localhost")


def _moved_input(meta: Any) -> None:
    meta.signature_def["serving_default"].inputs["rows"].name = "StatefulPartitionedCall:0"


def _sparse(meta: Any) -> None:
    meta.signature_def["serving_default"].inputs["rows"].coo_sparse.values_tensor_name = "a"


def _in_function(op: str) -> Callable[[Any], None]:
    def added(meta: Any) -> None:
        node = _function(meta).node_def.add(name="more", op=op)
        node.attr["dtype"].type = 1
        node.attr["shape"].shape.SetInParent()

    return added


STRUCTURES: dict[str, tuple[Callable[[Any], None], str]] = {
    "a function with the name of an operator": (lambda meta: _rename(meta, "Identity"), "a function with the name of"),
    "a function that calls itself": (_recursive, "a call of a function that does not exist or calls itself"),
    "calls without end": (_exponential, "more than 1,000,000 operators"),
    "a constant that repeats": (
        _constant(lambda tensor: tensor.tensor_shape.dim.add(size=1 << 40)),
        "constants of more than 256 MiB",
    ),
    "a handle as a constant": (_constant(_resource), "a constant that is not numbers or text"),
    "an input that is not a placeholder": (_moved_input, "the input .* which is not a placeholder"),
    "a sparse input": (_sparse, "an input or output that is not a dense tensor"),
    "a variable in a function": (_in_function("VarHandleOp"), "the operator VarHandleOp"),
    "a placeholder in a function": (_in_function("Placeholder"), "the operator Placeholder"),
    "an operator that does not exist": (_in_function("Nothing"), "the operator Nothing"),
    "python": (_in_function("PyFunc"), "the operator PyFunc"),
    "stateless python": (_in_function("PyFuncStateless"), "the operator PyFuncStateless"),
    "compiled code": (_in_function("XlaCallModule"), "the operator XlaCallModule"),
    "another process": (_in_function("RemoteCall"), "the operator RemoteCall"),
    "a saved data set": (_in_function("LoadDataset"), "the operator LoadDataset"),
    "a gradient": (_in_function("SymbolicGradient"), "the operator SymbolicGradient"),
    "a function of a data set": (_in_function("MapDefun"), "the operator MapDefun"),
    "a node twice": (
        lambda meta: meta.graph_def.node.add().CopyFrom(meta.graph_def.node[0]),
        "a node that is defined twice",
    ),
    "a function twice": (
        lambda meta: meta.graph_def.library.function.add().CopyFrom(_function(meta)),
        "a function that is defined twice",
    ),
    "a tag": (lambda meta: meta.meta_info_def.tags.append("train"), "0 graphs with the tag serve"),
}


@pytest.mark.parametrize("name", list(STRUCTURES))
def test_a_structure_that_does_more_than_compute_is_rejected(name: str) -> None:
    change, what = STRUCTURES[name]
    with pytest.raises(RefusedModel, match=rf"refused {what}.* in saved_model\.pb"):
        opened(changed(second(lambda rows: rows * 2), change))


def test_options_of_execution_are_removed(tmp_path: Path) -> None:
    """Devices, executors, configurations, gradients and attributes that an operator does not declare."""

    def add(meta: Any) -> None:
        for node in (*meta.graph_def.node, *_function(meta).node_def):
            node.device = "/job:worker/replica:0/task:0/device:GPU:7"
            node.attr["_gradient_op_type"].s = b"Custom"
            node.attr["_XlaMustCompile"].b = True
            node.attr["_more"].func.name = "nothing"
            if node.op.endswith("PartitionedCall"):
                node.attr["executor_type"].s = b"NOTHING"
                node.attr["config_proto"].s = b"\xff"

    files = changed(second(lambda rows: rows * 2), add)
    np.testing.assert_array_equal(answer(opened(files)), ROWS * 2)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "AssignAddVariableOp": lambda variable: variable.assign_add(1.0),
    "AssignVariableOp": lambda variable: variable.assign(2.0),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_a_model_that_remembers_requests_is_rejected(name: str) -> None:
    class Model(Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.count = tf.Variable(0.0)

        @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, name="rows")])
        def answer(self, rows):  # type: ignore[no-untyped-def]
            CHANGES[name](self.count)
            return {"y": rows + self.count}

    model = Model()
    files = directory(lambda path: tf.saved_model.save(model, path, signatures={"serving_default": model.answer}))
    with pytest.raises(RefusedModel, match=rf"refused the operator {name} .*the model changes its variables when it"):
        opened(files)


INDEX = "variables/variables.index"
DATA = "variables/variables.data-00000-of-00001"


def test_a_damaged_checkpoint_is_rejected() -> None:
    files = first(weighted)
    expected = answer(opened(files))
    np.testing.assert_allclose(expected, ROWS.sum(1, keepdims=True).repeat(3, 1), rtol=1e-5)
    without = {name: data for name, data in files.items() if name != DATA}
    for broken in (
        {**files, DATA: files[DATA][:-1]},
        without,
        {**files, INDEX: files[INDEX][:-1]},
        {**files, INDEX: b""},
    ):
        with pytest.raises(RefusedModel, match=r"saved_model\.pb cannot be read \("):
            opened(broken)
    with pytest.raises(RefusedModel, match="it has a variable that has no value in the checkpoint"):
        opened({name: data for name, data in files.items() if name != INDEX})


def test_every_changed_byte_of_an_index_is_a_refusal_or_the_same_answer() -> None:
    files = first(weighted)
    bundle = tensor_bundle.read(files, "variables/variables")
    right = bundle.tensor("w").tobytes()
    generator = np.random.default_rng(7)
    for position in range(len(files[INDEX])):
        index = bytearray(files[INDEX])
        index[position] ^= int(generator.integers(1, 256))
        try:
            got = tensor_bundle.read({**files, INDEX: bytes(index)}, "variables/variables").tensor("w")
        except MemoryError:
            raise
        except Exception:  # protobuf and numpy raise their own
            continue
        assert got.nbytes <= len(files[DATA])
        assert got.tobytes() in files[DATA] or got.tobytes() == right


def test_a_table_from_constants_is_served_and_a_repeating_one_is_not() -> None:
    class Model(Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            start = tf.lookup.KeyValueTensorInitializer(tf.constant(["a", "b"]), tf.constant([1, 2], tf.int64))
            self.table = tf.lookup.StaticHashTable(start, -1)

        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="words")])
        def answer(self, words):  # type: ignore[no-untyped-def]
            return {"y": self.table.lookup(words)}

    model = Model()
    files = directory(lambda path: tf.saved_model.save(model, path, signatures={"serving_default": model.answer}))
    words = np.array(["b", "a", "c"], object)
    assert answer(opened(files), words).tolist() == [2, 1, -1]

    def repeat(meta: Any) -> None:
        for node in meta.graph_def.node:
            if node.op == "Const" and len(node.attr["value"].tensor.tensor_shape.dim) == 1:
                node.attr["value"].tensor.tensor_shape.dim[0].size = 1 << 40

    with pytest.raises(RefusedModel, match=r"cannot be read \(it has a table that is not numbers or text, or repeats"):
        opened(changed(files, repeat))


# TensorFlow's own names: what an operator that does more than compute would have among its attributes or in its name.
NAMING = {
    "container",
    "shared_name",
    "filename",
    "file_name",
    "filenames",
    "address",
    "target",
    "url",
    "debug_urls",
    "token",
    "memory_region_name",
    "path",
    "directory",
    "device",
    "allowed_devices",
    "key",
    "group_key",
}
REACHING = (
    "File",
    "Save",
    "Restore",
    "Checkpoint",
    "PyFunc",
    "Dataset",
    "Iterator",
    "Debug",
    "Dump",
    "Proto",
    "Remote",
    "Rpc",
    "Send",
    "Recv",
    "Host",
    "Summary",
    "Immutable",
    "Remap",
    "Print",
    "Sharded",
    "Reader",
    "Queue",
    "Barrier",
    "Session",
    "Collective",
    "Tpu",
    "TPU",
    "Xla",
    "Stage",
    "Sparse",
    "Quantize",
    "Grad",
)


def test_no_allowed_operator_reaches_beyond_its_tensors() -> None:
    """Of the installed TensorFlow: by name, by attribute, and by the kind of what it returns."""
    registry = library("tensorflow.python.framework.op_def_registry")
    session = library("tensorflow.python.client.pywrap_tf_session")
    buffer = session.TF_GetAllOpList()
    every = library("tensorflow.core.framework.op_def_pb2").OpList.FromString(
        buffer if isinstance(buffer, bytes) else session.TF_GetBuffer(buffer)
    )
    print(f"{len(allowed('tensorflow'))} of {len(every.op)} operators are allowed")
    assert len(allowed("tensorflow")) < len(every.op) / 4
    kinds = {
        "func": {"f", "then_branch", "else_branch", "cond", "body"},
        "tensor": {"value"},
        "list(func)": {"branches"},
    }
    for name in sorted(allowed("tensorflow")):
        definition = registry.get(name)
        assert definition is not None, name
        assert name in ("SparseSoftmaxCrossEntropyWithLogits", "StopGradient", "PreventGradient") or not any(
            word in name for word in REACHING
        ), name
        for attribute in definition.attr:
            assert attribute.name not in NAMING or "string" not in attribute.type, (name, attribute.name)
            if attribute.type in ("func", "list(func)", "tensor", "list(tensor)"):
                assert attribute.name in kinds.get(attribute.type, ()), (name, attribute.name)
        if name not in ("PartitionedCall", "StatefulPartitionedCall", "If", "While", "Case"):
            outputs = {tf.as_dtype(output.type).name for output in definition.output_arg if output.type}
            assert "resource" not in outputs or name == "TensorArrayV3", name
