"""Model files that would do more than predict: each touches a marker file, reads another file, or crashes the process.

The payloads are harmless. Every file must be rejected for the reason beside it.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import json
import lzma
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import joblib
import numpy as np
from sklearn.cluster import KMeans
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from tests.unit.server.models import joblib_bytes

Files = dict[str, bytes]
X = np.random.default_rng(7).random((40, 3))
Y = (X[:, 0] > 0.5).astype(int)


@dataclass(frozen=True)
class Malicious:
    """A hostile file. ``make(marker)`` returns the files, the entry file first; ``reason`` is its error (pattern)."""

    name: str
    make: Callable[[Path], Files]
    reason: str


class Call:
    """Pickles as a call to ``function`` with ``arguments``."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self._reduced = (function, arguments, state) if state is not None else (function, arguments)

    def __reduce__(self) -> Any:
        return self._reduced


class Global:
    """Pickles as the global of this name, whether it exists or not."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


def stream(*parts: Any) -> bytes:
    """Return a pickle of opcodes (bytes), globals and values, which are pickled in place."""
    out = [b"\x80\x04"]
    for part in parts:
        if isinstance(part, bytes):
            out.append(part)
        elif isinstance(part, Global):
            out += [_text(part.module), _text(part.name), pickle.STACK_GLOBAL]
        else:
            out.append(_value(part))
    return b"".join(out) + b"."


def _value(value: Any) -> bytes:
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=3)  # protocol 4 has frames
    pickler.fast = True  # no memo, whose numbers would be wrong in the outer pickle
    pickler.dump(value)
    return buffer.getvalue()[2:-1]


def _text(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def payload(marker: Path) -> Call:
    return Call(os.system, f"touch {marker}")


def _pipeline(note: Any) -> Any:
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)
    fitted.steps[0][1].note = note
    return fitted


def _compressed(compress: Callable[[bytes], bytes]) -> Callable[[Path], Files]:
    return lambda marker: {"model.joblib": compress(joblib_bytes(_pipeline(payload(marker))))}


def _gadget(module: str, name: str, *arguments: Any) -> Malicious:
    def make(marker: Path) -> Files:
        given = [str(marker) if argument is Path else argument for argument in arguments]
        return {"model.joblib": stream(Global(module, name), tuple(given), pickle.REDUCE)}

    return Malicious(f"gadget {module}.{name}", make, rf"refused {module}\.{name} in model\.joblib")


def _pickled(name: str, value: Callable[[Path], Any], reason: str) -> Malicious:
    def make(marker: Path) -> Files:
        made = value(marker)
        return {"model.joblib": made if isinstance(made, bytes) else joblib_bytes(made)}

    return Malicious(name, make, reason)


def _changed_tree(change: Callable[[Any], None], model: Any) -> Any:
    """Return a fitted tree whose nodes were changed before it was pickled."""
    fitted = model.fit(X, Y)
    state = fitted.tree_.__getstate__()
    state["nodes"] = state["nodes"].copy()
    change(state["nodes"])
    fitted.tree_ = Call(type(fitted.tree_), *fitted.tree_.__reduce__()[1], state=state)
    return fitted


def _child_outside(nodes: Any) -> None:
    nodes["left_child"][0] = 1 << 40


def _endless(nodes: Any) -> None:
    nodes["left_child"][0] = nodes["right_child"][0]


def _feature_outside(nodes: Any) -> None:
    nodes["feature"][0] = 1 << 40


def _hist(column: str, value: int) -> Any:
    fitted = HistGradientBoostingClassifier(max_iter=1, min_samples_leaf=2).fit(X, Y)
    fitted._predictors[0][0].nodes[column][0] = value
    return fitted


def _neighbours() -> Any:
    fitted = KNeighborsClassifier(algorithm="kd_tree").fit(X, Y)
    state = list(fitted._tree.__getstate__())
    state[1] = np.asarray(state[1]) + (1 << 40)
    function, arguments = fitted._tree.__reduce__()[:2]
    fitted._tree = Call(function, *arguments, state=tuple(state))
    return fitted


def _forged_pointers() -> bytes:
    """An array of Python objects whose content is numbers: numpy would use them as addresses."""
    forged = (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)
    return stream(
        *(Global("numpy._core.multiarray", "_reconstruct"), Global("numpy", "ndarray"), (0,), b"C\x01b", pickle.TUPLE3),
        *(pickle.REDUCE, pickle.MARK, b"K\x01", (1,), Global("numpy", "dtype"), ("V8", False, True), pickle.REDUCE),
        *(forged, pickle.BUILD, b"\x89", b"C\x08" + struct.pack("<Q", 0xDEADBEEF), pickle.TUPLE, pickle.BUILD),
    )


def _forged_dtype() -> bytes:
    forged = (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)
    return stream(Global("numpy", "dtype"), ("V8", False, True), pickle.REDUCE, forged, pickle.BUILD)


def _short_list() -> bytes:
    """An array of a thousand Python objects from a list of one: numpy would read past its end."""
    return stream(
        *(Global("numpy._core.multiarray", "_reconstruct"), Global("numpy", "ndarray"), (0,), b"C\x01b", pickle.TUPLE3),
        *(pickle.REDUCE, pickle.MARK, b"K\x01", (1000,), Global("numpy", "dtype"), ("O8", False, True), pickle.REDUCE),
        *((3, "|", None, None, None, -1, -1, 63), pickle.BUILD, b"\x89", [1], pickle.TUPLE, pickle.BUILD),
    )


def _singleton() -> bytes:
    """numpy's own float64, changed to big-endian for the whole process."""
    return stream(
        *(Global("numpy", "dtype"), ("f8", False, False), pickle.REDUCE),
        *((3, ">", None, None, None, -1, -1, 0), pickle.BUILD, pickle.POP, b"N"),
    )


def _scalar() -> bytes:
    """A scalar of 800 bytes from one byte: it would contain the memory after it."""
    return stream(
        *(Global("numpy._core.multiarray", "scalar"), Global("numpy", "dtype"), ("V800", False, True), pickle.REDUCE),
        *(b"C\x01a", pickle.TUPLE2, pickle.REDUCE),
    )


def _huge_array() -> bytes:
    wrapper = joblib.numpy_pickle.NumpyArrayWrapper(np.ndarray, (1 << 40,), "C", np.dtype("f8"))
    return pickle.dumps(wrapper, protocol=4)[:-1] + b"\0" * 64 + b"."


def _deep_key() -> bytes:
    return stream(b"}", b")" + pickle.TUPLE1 * 300_000, b"N", pickle.SETITEM)


def _change_of_class(marker: Path) -> bytes:
    return stream(Global("sklearn.pipeline", "Pipeline"), (None, {"predict": f"touch {marker}"}), pickle.BUILD)


def _old_wrapper(marker: Path) -> bytes:
    return stream(
        Global("joblib.numpy_pickle_compat", "NDArrayWrapper"), b")", pickle.NEWOBJ,
        {"filename": str(marker), "subclass": None, "allow_mmap": False}, pickle.BUILD,
    )  # fmt: skip


def _vectorizer() -> Any:
    texts = TfidfVectorizer().fit(["a good day", "a bad day"])
    return make_pipeline(texts.set_params(input="filename"), LogisticRegression().fit(np.eye(2, 3), [0, 1]))


def _skops(schema: Any, **members: bytes) -> Files:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", json.dumps({"protocol": 2, "_skops_version": "0.16.0", **schema}))
        for name, data in members.items():
            archive.writestr(name, data)
    return {"model.skops": buffer.getvalue()}


def _text_node(text: str) -> dict[str, Any]:
    return {
        "__class__": "str",
        "__module__": "builtins",
        "__loader__": "JsonNode",
        "__id__": 9,
        "content": json.dumps(text),
    }


def _tuple_node(*texts: str) -> dict[str, Any]:
    return {
        "__class__": "tuple", "__module__": "builtins", "__loader__": "TupleNode", "__id__": 8,
        "content": [_text_node(text) for text in texts],
    }  # fmt: skip


def _node(loader: str, module: str, name: str, **more: Any) -> dict[str, Any]:
    return {"__class__": name, "__module__": module, "__loader__": loader, "__id__": 1, **more}


def _archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _keras(layer: dict[str, Any]) -> Files:
    inner = {"name": "m", "layers": [layer]}
    config = {"module": "keras", "class_name": "Sequential", "registered_name": None, "config": inner}
    return {"model.keras": _archive({"metadata.json": b"{}", "config.json": json.dumps(config).encode()})}


def _onnx(marker: Path) -> Files:
    from onnx import TensorProto, helper

    weights = helper.make_tensor("w", TensorProto.FLOAT, [3, 1], b"\0" * 12, raw=True)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=f"../../../../../..{marker}")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
        [weights],
    )
    return {"model.onnx": helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()}


def _xgboost(change: Callable[[Any], None]) -> Callable[[Path], Files]:
    def make(_: Path) -> Files:
        import xgboost

        booster = xgboost.train({"max_depth": 2, "nthread": 1}, xgboost.DMatrix(X, Y, nthread=1), 2)
        model = json.loads(bytes(booster.save_raw("json")))
        change(model["learner"])
        return {"model.json": json.dumps(model).encode()}

    return make


def _tree_of(learner: Any) -> Any:
    return learner["gradient_booster"]["model"]["trees"][0]


def _onnx_with_a_long_tag(marker: Path) -> Files:
    """Parsers that keep 32 bits of a tag see field 13, external data; others see a field that ONNX does not have."""
    import onnx

    model = onnx.ModelProto.FromString(_onnx(marker)["model.onnx"])
    tensor = model.graph.initializer[0]
    longer = tensor.SerializeToString().replace(b"\x6a", b"\xea\x80\x80\x80\x10", 1)
    tensor.Clear()
    tensor.doc_string = "?" * (len(longer) - 2)  # as long, so all lengths around it fit
    return {"model.onnx": model.SerializeToString().replace(tensor.SerializeToString(), longer)}


def _onnx_that_grows(_: Path) -> Files:
    from onnx import TensorProto, helper

    size = helper.make_tensor("n", TensorProto.INT64, [2], [25_000, 25_000])
    shape = [None, 1]
    graph = helper.make_graph(
        [
            helper.make_node("ConstantOfShape", ["n"], ["c"]),
            helper.make_node("ReduceSum", ["c"], ["r"], keepdims=0),
            helper.make_node("Add", ["x", "r"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [size],
    )
    opset = helper.make_opsetid("", 17)
    return {"model.onnx": helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()}


def _lightgbm(old: str, new: str) -> Callable[[Path], Files]:
    def make(_: Path) -> Files:
        import lightgbm

        options = {"objective": "binary", "verbose": -1, "num_threads": 1, "min_data_in_leaf": 2}
        text = lightgbm.train(options, lightgbm.Dataset(X, Y), 1).model_to_string()
        head, found, rest = text.partition(f"\n{old}=")
        assert found
        changed = f"{head}\n{old}={new}\n{rest.partition(chr(10))[2]}"
        size = len(text.partition("\n\n")[2].encode()) - len(changed.partition("\n\n")[2].encode())
        given = next(line for line in text.splitlines() if line.startswith("tree_sizes="))
        fits = f"tree_sizes={int(given.partition('=')[2]) - size}"
        return {"model.txt": changed.replace(given, fits).encode()}

    return make


def _booster(marker: Path) -> bytes:
    marker.with_suffix(".ubj").write_bytes(b"{}")
    return stream(Global("xgboost.core", "Booster"), (None, (), str(marker)), pickle.REDUCE)


def _pickled_booster() -> bytes:
    import xgboost

    fitted = xgboost.XGBClassifier(n_estimators=1, n_jobs=1).fit(X, Y)
    raw = bytes(fitted.get_booster().__getstate__()["handle"])
    nested = raw.replace(b"\x05trees[", b"\x05trees" + b"[" * 100_000, 1)
    assert nested != raw
    return stream(
        *(Global("xgboost.core", "Booster"), b")", pickle.NEWOBJ, pickle.EMPTY_DICT, "handle"),
        *(Global("builtins", "bytearray"), (nested,), pickle.REDUCE, pickle.SETITEM, pickle.BUILD),
    )


def _mlflow(description: str, **files: bytes) -> Callable[[Path], Files]:
    return lambda _: {"MLmodel": description.encode(), **files}


def _torch(marker: Path) -> Files:
    data = pickle.dumps(payload(marker), protocol=2)
    return {"model.pt": _archive({"archive/data.pkl": data, "archive/version": b"3\n"})}


def _by_value(_: Path) -> bytes:
    fitted = make_pipeline(FunctionTransformer(lambda table: table), LogisticRegression()).fit(X, Y)
    return bytes(cloudpickle.dumps(fitted))


def _method(marker: Path) -> Any:
    return make_pipeline(FunctionTransformer(marker.touch), LogisticRegression().fit(X, Y))


def _nested(marker: Path) -> bytes:
    inner = marker.with_name("inner.joblib")
    inner.write_bytes(joblib_bytes(payload(marker)))
    return stream(Global("joblib.numpy_pickle", "load"), (str(inner),), pickle.REDUCE)


def _split_lzma(data: bytes) -> bytes:
    return lzma.compress(data, format=lzma.FORMAT_ALONE)


def _globals() -> Iterator[Malicious]:
    yield _pickled("bare", payload, r"refused posix\.system in model\.joblib")
    yield _pickled("protocol 0", lambda m: pickle.dumps(payload(m), 0), r"refused posix\.system in model\.joblib")
    yield _pickled("in a pipeline", lambda m: _pipeline(payload(m)), r"refused posix\.system in model\.joblib")
    yield _pickled(
        "object array", lambda m: np.array([payload(m), 1], object), r"refused posix\.system in model\.joblib"
    )
    yield _pickled(
        "object array in an object array",
        lambda m: _pipeline(np.array([[np.array([payload(m)], object)], [0]], object)),
        r"refused posix\.system in model\.joblib",
    )
    for name, compress in (
        ("zlib", zlib.compress), ("gzip", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress),
        ("lzma", _split_lzma),
    ):  # fmt: skip
        yield Malicious(name, _compressed(compress), r"refused posix\.system in model\.joblib")
    yield _gadget("sklearn.utils._testing", "assert_run_python_script_without_output", Path)
    yield _gadget("numpy.f2py.crackfortran", "myeval", "__import__('os').system('true')")
    yield _gadget("timeit", "timeit", "1", "1")
    yield _gadget("numpy", "load", Path, None, True)
    yield _gadget("numpy", "fromfile", Path)
    yield _gadget("numpy", "memmap", Path)
    yield _gadget("functools", "partial", 1)
    yield _gadget("operator", "attrgetter", "__globals__")
    yield _gadget("operator", "methodcaller", "touch")
    yield _gadget("builtins", "getattr", "a", "upper")
    yield _gadget("builtins", "eval", "1")
    yield _gadget("builtins", "exec", "1")
    yield _gadget("importlib", "import_module", "antigravity")
    yield _gadget("pathlib", "Path", Path)
    yield _gadget("sklearn.datasets._openml", "fetch_openml", "iris")
    yield _gadget("sklearn.datasets._base", "load_files", Path)
    yield _gadget("scipy.io", "loadmat", Path)
    yield _gadget("xgboost.core", "_load_lib")
    yield _pickled("nested load", _nested, r"refused joblib\.numpy_pickle\.load in model\.joblib")
    yield _pickled("wrapper of joblib 0.9", _old_wrapper, r"refused joblib\.numpy_pickle_compat\.NDArrayWrapper in")
    yield _pickled("lambda of cloudpickle", _by_value, r"refused cloudpickle\.cloudpickle\.\w+ in model\.joblib")
    yield _pickled("bound method", _method, r"refused (builtins\.getattr|pathlib\.\w+) in model\.joblib")


def _protocol() -> Iterator[Malicious]:
    yield _pickled(
        "dotted name", lambda _: stream(Global("numpy", "ndarray.tofile")), r"refused numpy\.ndarray\.tofile in"
    )
    yield _pickled(
        "listed class with arguments",
        lambda m: stream(Global("sklearn.pipeline", "Pipeline"), ([], str(m)), pickle.REDUCE),
        r"refused a call to sklearn\.pipeline\.Pipeline in model\.joblib",
    )
    yield _pickled(
        "number type with arguments",
        lambda _: stream(Global("numpy", "void"), (1 << 40,), pickle.REDUCE),
        r"refused a call to numpy\.void in model\.joblib",
    )
    yield _pickled("booster with a path", _booster, r"refused a call to xgboost\.core\.Booster in model\.joblib")
    yield _pickled("change of a class", _change_of_class, r"refused a change to sklearn\.pipeline\.Pipeline in")
    yield _pickled(
        "change of a function",
        lambda _: stream(Global("numpy", "nan_to_num"), (None, {"__defaults__": (1,)}), pickle.BUILD),
        r"refused a change to numpy\.nan_to_num in",
    )
    unsupported = r"model\.joblib cannot be read \(it uses a part of pickle that no model needs\)"
    yield _pickled("extension code", lambda _: stream(b"\x82\x01"), unsupported)
    yield _pickled("persistent id", lambda _: b"Pmodel\n.", unsupported)
    yield _pickled("class of Python 2", lambda m: f"(S'touch {m}'\niposix\nsystem\n.".encode(), unsupported)
    yield _pickled("key nested deep", lambda _: _deep_key(), r"it has a tuple as a key")
    yield _pickled(
        "estimator as a list",
        lambda _: stream(Global("sklearn.pipeline", "Pipeline"), b")", pickle.NEWOBJ, b"K\x01", pickle.APPEND),
        r"it uses a Pipeline as a list",
    )


def _numbers() -> Iterator[Malicious]:
    yield _pickled("numbers as pointers", lambda _: _forged_pointers(), r"cannot be read \(it has a ")
    yield _pickled(
        "data type of pointers", lambda _: _forged_dtype(), r"it has a (forged data type|table whose columns)"
    )
    yield _pickled(
        "uninitialised memory",
        lambda _: stream(Global("numpy", "ndarray"), ((1_000_000,),), pickle.NEWOBJ),
        r"refused a call to numpy\.ndarray in model\.joblib",
    )
    yield _pickled("list shorter than its array", lambda _: _short_list(), r"whose length does not fit its shape")
    yield _pickled("scalar longer than its bytes", lambda _: _scalar(), r"a number whose length does not fit its type")
    yield _pickled("array of 8 TB", lambda _: _huge_array(), r"it unpacks to more than the limit")
    yield _pickled(
        "bytearray of 1 TB", lambda _: stream(b"\x96" + struct.pack("<Q", 1 << 40)), r"model\.joblib cannot be read"
    )
    out_of_range = r"it has a tree with an index out of range"
    yield _pickled("child of a tree", lambda _: _changed_tree(_child_outside, DecisionTreeClassifier()), out_of_range)
    yield _pickled(
        "feature of a tree", lambda _: _changed_tree(_feature_outside, DecisionTreeClassifier()), out_of_range
    )
    yield _pickled(
        "endless tree", lambda _: _changed_tree(_endless, DecisionTreeClassifier()), r"whose branches merge or loop"
    )
    yield _pickled("child of a histogram tree", lambda _: _hist("left", 1 << 31), out_of_range)
    yield _pickled("feature of a histogram tree", lambda _: _hist("feature_idx", 1 << 40), out_of_range)
    yield _pickled("index of a neighbour tree", lambda _: _neighbours(), out_of_range)
    yield _pickled("narrow forest", lambda _: _altered(RandomForestClassifier(2), n_features_in_=1), out_of_range)
    yield _pickled(
        "boosting with more trees than columns",
        lambda _: _altered(GradientBoostingClassifier(n_estimators=1), estimators_=_wide(GradientBoostingClassifier)),
        r"it has an array of the wrong length",
    )
    yield _pickled(
        "centres of fewer columns",
        lambda _: _altered(KMeans(2, n_init=1), cluster_centers_=np.zeros((2, 1))),
        r"it has an array of the wrong length",
    )
    yield _pickled(
        "coefficients of missing support vectors",
        lambda _: _altered(SVC(), _dual_coef_=np.zeros((1, 1))),
        r"it has an array of the wrong length",
    )
    yield _pickled(
        "vectorizer that opens files",
        lambda _: _vectorizer(),
        r"refused sklearn\.feature_extraction\.text\.TfidfVectorizer with input='filename' in model\.joblib",
    )
    yield _pickled("pickled booster nested deep", lambda _: _pickled_booster(), r"it is nested too deep")


def _altered(model: Any, **changes: Any) -> Any:
    fitted = model.fit(X, Y)
    vars(fitted).update(changes)
    return fitted


def _wide(kind: Any) -> Any:
    return np.repeat(kind(n_estimators=1).fit(X, Y).estimators_, 9, axis=1)


def _of_node(node: dict[str, Any], _marker: Path) -> Files:
    return _skops(node)


def _skops_files() -> Iterator[Malicious]:
    system = _node("FunctionNode", "posix", "system")
    yield Malicious("skops function", lambda _: _skops(system), r"refused posix\.system in model\.skops")
    yield Malicious(
        "skops type",
        lambda _: _skops(_node("TypeNode", "subprocess", "Popen")),
        r"refused subprocess\.Popen in model\.skops",
    )
    yield Malicious(
        "skops object",
        lambda _: _skops(_node("ObjectNode", "sklearn.utils._testing", "TempMemmap")),
        r"refused sklearn\.utils\._testing\.TempMemmap in model\.skops",
    )
    yield Malicious(
        "skops method",
        lambda _: _skops(_node("MethodNode", "sklearn.pipeline", "Pipeline", content={"func": "fit", "obj": system})),
        r"refused a call to sklearn\.pipeline\.Pipeline in model\.skops",
    )
    yield Malicious(
        "skops operator",
        lambda _: _skops(_node("OperatorFuncNode", "operator", "methodcaller", attrs=_tuple_node("touch"))),
        r"refused a call to operator\.methodcaller in model\.skops",
    )
    yield Malicious(
        "skops partial",
        lambda _: _skops(_node("PartialNode", "functools", "partial", content={"func": system})),
        r"refused a call to functools\.partial in model\.skops",
    )
    yield Malicious(
        "skops constructor",
        lambda m: _skops(_node("ConstructorFromReduceNode", "xgboost.core", "Booster", content=_tuple_node(str(m)))),
        r"refused a call to xgboost\.core\.Booster in model\.skops",
    )
    for loader in ("TreeNode", "LossNode"):
        node = _node(loader, "xgboost.core", "Booster", content=_tuple_node("model"))
        yield Malicious(
            f"skops booster as {loader}",
            functools.partial(_of_node, node),
            r"refused a call to xgboost\.core\.Booster in model\.skops",
        )
    yield Malicious(
        "skops path",
        lambda m: _skops(_node("NdArrayNode", "numpy", "ndarray", type="numpy", file=f"../../..{m}")),
        r"model\.skops cannot be read \(KeyError\)",
    )


def _others() -> Iterator[Malicious]:
    yield Malicious(
        "torch pickle", _torch, r"refused the pickle in model\.pt \(torch\.save\): save the model as a program"
    )
    yield Malicious(
        "old torch pickle",
        lambda _: {"model.pth": b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."},
        r"refused the pickle in model\.pth",
    )
    layer: dict[str, Any] = {
        "module": "keras.layers",
        "class_name": "Lambda",
        "registered_name": None,
        "config": {"function": {}},
    }
    yield Malicious("keras lambda", lambda _: _keras(layer), r"refused keras\.layers\.Lambda in model\.keras")
    download = {"module": "keras.utils", "class_name": "function", "registered_name": "get_file", "config": "get_file"}
    yield Malicious(
        "keras download", lambda _: _keras(download), r"refused keras\.utils\.function get_file in model\.keras"
    )
    module: dict[str, Any] = {"module": "os", "class_name": "system", "registered_name": None, "config": {}}
    yield Malicious("keras module", lambda _: _keras(module), r"refused os\.system in model\.keras")
    yield Malicious("onnx weights in another file", _onnx, r"refused external data in model\.onnx")
    yield Malicious(
        "onnx weights behind a tag of 33 bits",
        _onnx_with_a_long_tag,
        r"model\.onnx cannot be read|refused external data",
    )
    yield Malicious("onnx constant of 2.5 GB", _onnx_that_grows, r"takes more than 512 MiB of memory")


def _boosters() -> Iterator[Malicious]:
    yield Malicious(
        "xgboost nested deep",
        lambda _: {"model.json": b'{"learner":' + b"[" * 2_000_000},
        r"model\.json cannot be read \(RecursionError",
    )
    yield Malicious(
        "xgboost nested deep, binary",
        lambda _: {"model.ubj": b"{L\0\0\0\0\0\0\0\x07learner" + b"[" * 2_000_000},
        r"model\.ubj cannot be read \(it is nested too deep",
    )
    out_of_range = r"model\.json cannot be read \(it has a tree with an index out of range"
    yield Malicious(
        "xgboost child", _xgboost(lambda m: _tree_of(m)["left_children"].__setitem__(0, 1 << 30)), out_of_range
    )
    yield Malicious("xgboost parent", _xgboost(lambda m: _tree_of(m)["parents"].__setitem__(1, 1 << 30)), out_of_range)
    yield Malicious(
        "xgboost feature", _xgboost(lambda m: _tree_of(m)["split_indices"].__setitem__(0, 1 << 30)), out_of_range
    )
    yield Malicious(
        "xgboost group",
        _xgboost(lambda m: m["gradient_booster"]["model"]["tree_info"].__setitem__(0, 1 << 30)),
        out_of_range,
    )
    yield Malicious(
        "old xgboost", lambda _: {"model.bin": b"binf\0\0\0"}, r"model\.bin is in XGBoost's deprecated binary format"
    )
    yield Malicious(
        "lightgbm feature", _lightgbm("split_feature", "5000000"), r"model\.txt cannot be read \(it has a tree"
    )
    yield Malicious(
        "lightgbm spelling",
        _lightgbm("max_feature_idx", "1_0"),
        r"model\.txt cannot be read \(it has text instead of an integer",
    )
    yield Malicious(
        "lightgbm leaves",
        _lightgbm("num_leaves", "2000000000"),
        r"model\.txt cannot be read \(it has an array of the wrong length",
    )


def _mlflow_directories() -> Iterator[Malicious]:
    runs = "flavors:\n  python_function:\n    loader_module: my_loader\n    code: code\n"
    yield Malicious(
        "mlflow with code", _mlflow(runs, **{"code/my_loader.py": b"1"}),
        r"refused MLmodel with the flavour python_function, whose loader my_loader runs its own code",
    )  # fmt: skip
    outside = "flavors:\n  sklearn:\n    pickled_model: ../../../etc/passwd\n"
    yield Malicious(
        "mlflow path", _mlflow(outside), "MLmodel names a file for its flavour sklearn that is not in the directory"
    )
    yield Malicious(
        "mlflow yaml",
        _mlflow("!!python/object/apply:os.system ['true']\n"),
        r"MLmodel is not a YAML description of a model",
    )
    yield Malicious(
        "mlflow pickle",
        lambda m: {
            "MLmodel": b"flavors:\n  sklearn:\n    pickled_model: model.pkl\n    serialization_format: cloudpickle\n",
            "model.pkl": pickle.dumps(payload(m)),
        },
        r"refused posix\.system in model\.pkl",
    )


ALL = [*_globals(), *_protocol(), *_numbers(), *_skops_files(), *_others(), *_boosters(), *_mlflow_directories()]
