"""TensorFlow: SavedModel directories and Keras files are served, and files that do more than predict are rejected."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlmodel_server import package
from mlmodel_server.engine import selftest
from mlmodel_server.engine.model import model_of
from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.opened import Opened
from mlmodel_server.formats.table import library
from mlmodel_server.formats.tensorflow_common import tensorflow
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Local, Memory
from mlmodel_server.tensors import TensorSpec

tf = tensorflow(1)
Module: Any = tf.Module
keras = library("keras")
h5py = library("h5py")
ROWS = np.random.default_rng(7).random((20, 4)).astype(np.float32)


@cache
def small() -> Any:
    """A classifier of four numbers, with layers that only training uses."""
    keras.utils.set_random_seed(7)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((4,), name="row"),
            layers.Dense(8, activation="relu", kernel_regularizer=keras.regularizers.L2(0.01)),
            layers.Dropout(0.5),
            layers.BatchNormalization(),
            layers.Dense(3, activation="softmax"),
        ]
    )


@cache
def expected() -> Any:
    return small().predict(ROWS, verbose=0)


def saved(model: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.keras")
        return Path(folder, "model.keras").read_bytes()


def directory(write: Callable[[str], Any]) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        write(folder)
        return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def opened(files: dict[str, bytes], entry: str, **options: Any) -> Opened:
    return load(Memory(files, entry), **options).opened


class Words(Module):  # type: ignore[misc]
    """Two inputs, one of them text, and three outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = tf.Variable(tf.ones((4, 2)))

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, 4), tf.float32, name="rows"),
            tf.TensorSpec((None,), tf.string, name="words"),
        ]
    )
    def answer(self, rows, words):  # type: ignore[no-untyped-def]
        """The function of the signature."""
        return {"sums": rows @ self.weights, "lengths": tf.strings.length(words), "upper": tf.strings.upper(words)}


def test_a_keras_file_is_served() -> None:
    model = opened({"model": saved(small())}, "model")
    assert (model.format, model.platform) == ("keras", "tensorflow_keras")
    assert model.signature is not None
    assert model.signature.layout == "matrix"
    assert model.signature.inputs == (TensorSpec("row", "FP32", (-1, 4)),)
    assert model.signature.outputs == (TensorSpec("predict", "FP32", (-1, 3)),)
    np.testing.assert_allclose(model.functions(ROWS, ["predict"])[0], expected(), rtol=1e-4)


def test_a_keras_model_of_several_tensors_keeps_their_names() -> None:
    left, right = keras.Input((4,), name="left"), keras.Input((2,), name="right")
    joined = keras.layers.Concatenate()([left, right])
    heads = {name: keras.layers.Dense(size, name=name)(joined) for name, size in (("one", 1), ("two", 2))}
    made = keras.Model([left, right], heads)
    made.compile("adam", "mse")
    model = opened({"m.keras": saved(made)}, "m.keras")
    assert model.signature is not None
    assert [spec.name for spec in model.signature.inputs] == ["left", "right"]
    two, one = model.functions({"left": ROWS, "right": ROWS[:, :2]}, ["two", "one"])
    answers = made([ROWS, ROWS[:, :2]])
    np.testing.assert_allclose(one, answers["one"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(two, answers["two"], rtol=1e-4, atol=1e-6)


def test_a_saved_model_is_served() -> None:
    files = directory(lambda path: small().export(path, verbose=False))
    model = opened(files, "saved_model.pb")
    assert (model.format, model.platform) == ("savedmodel", "tensorflow_savedmodel")
    assert model.signature is not None
    (output,) = model.signature.outputs
    np.testing.assert_allclose(model.functions(ROWS, [output.name])[0], expected(), rtol=1e-4)


def test_text_and_several_outputs() -> None:
    words = Words()
    files = directory(lambda path: tf.saved_model.save(words, path, signatures={"serving_default": words.answer}))
    model = opened(files, "saved_model.pb")
    assert model.signature is not None
    assert model.signature.inputs == (TensorSpec("rows", "FP32", (-1, 4)), TensorSpec("words", "BYTES", (-1,)))
    table = {"rows": ROWS[:2], "words": np.array(["a", "bb"], object)}
    lengths, upper, sums = model.functions(table, ["lengths", "upper", "sums"])
    assert lengths.tolist() == [1, 2]
    assert upper.tolist() == ["A", "BB"]
    np.testing.assert_allclose(sums, ROWS[:2].sum(1, keepdims=True).repeat(2, 1), rtol=1e-5)


def test_models_are_packaged(tmp_path: Path) -> None:
    files = package.build(small(), ROWS, None)
    assert files == package.build(small(), ROWS, None), "the same model gives the same bytes"
    exported = tmp_path / "exported"
    small().export(str(exported), verbose=False)
    package.save(exported, ROWS, None, tmp_path / "package")
    assert (tmp_path / "package" / "model" / "variables" / "variables.index").is_file()
    for source in (Memory(files), Local(tmp_path / "package")):
        loaded = load(source)
        assert loaded.manifest is not None
        selftest.run(model_of(loaded.opened, loaded.manifest), loaded.manifest.golden)


class Hostile(Module):  # type: ignore[misc]
    """Calls ``function`` in its signature."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, name="rows")])
    def answer(self, rows):  # type: ignore[no-untyped-def]
        """The function of the signature."""
        return {"answer": self.function(rows)}


def _written(path: str) -> Callable[[Any], Any]:
    def function(rows: Any) -> Any:
        with tf.control_dependencies([tf.io.write_file(path, "ran")]):
            return rows + 1

    return function


def _printed(path: str) -> Callable[[Any], Any]:
    def function(rows: Any) -> Any:
        tf.print(rows, output_stream=f"file://{path}")
        return rows + 1

    return function


def _in_branch(path: str) -> Callable[[Any], Any]:
    return lambda rows: tf.cond(tf.reduce_sum(rows) > 0, lambda: _written(path)(rows), lambda: rows)


def _checkpointed(path: str) -> Callable[[Any], Any]:
    def function(rows: Any) -> Any:
        saving = tf.raw_ops.SaveV2(prefix=path, tensor_names=["a"], shape_and_slices=[""], tensors=[rows])
        with tf.control_dependencies([saving]):
            return rows + 1

    return function


def _restored(path: str) -> Callable[[Any], Any]:
    options = {"tensor_names": ["a"], "shape_and_slices": [""], "dtypes": [tf.float32]}
    return lambda rows: rows + tf.raw_ops.RestoreV2(prefix=path, **options)[0]


OPERATORS: dict[str, Callable[[str], Callable[[Any], Any]]] = {
    "ReadFile": lambda path: lambda _: tf.io.read_file(path),
    "WriteFile": _written,
    "WriteFile in a branch": _in_branch,
    "PrintV2": _printed,
    "EagerPyFunc": lambda _: lambda rows: tf.py_function(lambda given: given, [rows], tf.float32),
    "MatchingFiles": lambda path: lambda _: tf.io.matching_files(path),
    "SaveV2": _checkpointed,
    "RestoreV2": _restored,
}


@pytest.mark.parametrize("name", list(OPERATORS))
def test_a_graph_that_does_more_than_compute_is_rejected(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    hostile = Hostile(OPERATORS[name](str(mark)))
    files = directory(lambda path: tf.saved_model.save(hostile, path, signatures={"serving_default": hostile.answer}))
    operator = name.partition(" ")[0]
    with pytest.raises(
        RefusedModel, match=rf"refused the operator {operator} in saved_model\.pb: a SavedModel may only"
    ):
        opened(files, "saved_model.pb")
    assert not list(tmp_path.iterdir())


def test_a_vocabulary_file_is_rejected(tmp_path: Path) -> None:
    vocabulary = tmp_path / "words.txt"
    vocabulary.write_text("a\nb\n")
    whole, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
    start = tf.lookup.TextFileInitializer(str(vocabulary), tf.string, whole, tf.int64, number)
    table = tf.lookup.StaticHashTable(start, -1)

    class Lookup(Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.table = table

        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="words")])
        def answer(self, words):  # type: ignore[no-untyped-def]
            return {"found": self.table.lookup(words)}

    lookup = Lookup()
    files = directory(lambda path: tf.saved_model.save(lookup, path, signatures={"serving_default": lookup.answer}))
    with pytest.raises(RefusedModel, match="refused the operator InitializeTableFromTextFileV2"):
        opened(files, "saved_model.pb")


def repacked(data: bytes, member: str, change: Callable[[bytes], bytes], **more: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            target.writestr(name, change(source.read(name)) if name == member else source.read(name))
        for name, content in more.items():
            target.writestr(name, content)
    return buffer.getvalue()


def _weights(change: Callable[[Any], None]) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        buffer = io.BytesIO(data)
        with h5py.File(buffer, "a") as file:
            change(file)
        return buffer.getvalue()

    return changed


def _external(file: Any) -> None:
    file.create_dataset("layers/more", (4,), "u1", external=[("/etc/hostname", 0, 4)])


def _link(file: Any) -> None:
    file["layers/more"] = h5py.ExternalLink("/etc/hostname", "/a")


def _vocabulary(config: bytes) -> bytes:
    content = json.loads(config)
    content["config"]["layers"].append(
        {
            "module": "keras.layers", "class_name": "StringLookup", "registered_name": None,
            "config": {"vocabulary": "/etc/passwd"},
        }
    )  # fmt: skip
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("member", "change", "what"),
    [
        ("model.weights.h5", _weights(_external), "weights in another file"),
        ("model.weights.h5", _weights(_link), "a link to other weights"),
        ("config.json", _vocabulary, r"keras\.layers\.StringLookup"),
    ],
    ids=["external", "link", "vocabulary"],
)
def test_a_keras_file_that_reads_other_files_is_rejected(
    member: str, change: Callable[[bytes], bytes], what: str
) -> None:
    with pytest.raises(RefusedModel, match=rf"refused {what} in m\.keras"):
        opened({"m.keras": repacked(saved(small()), member, change)}, "m.keras")
    with pytest.raises(RefusedModel, match=r"refused the path '\.\./m'"):
        opened({"m.keras": repacked(saved(small()), "", lambda data: data, **{"../m": b""})}, "m.keras")


def test_a_lambda_is_rejected() -> None:
    rows = keras.Input((4,))
    model = keras.Model(rows, keras.layers.Lambda(lambda rows: rows + 1)(rows))
    with pytest.raises(RefusedModel, match=r"refused keras\.layers\.Lambda in m\.keras"):
        opened({"m.keras": saved(model)}, "m.keras")


def test_mlflow_directories_of_both_formats_are_served() -> None:
    head = "flavors:\n  tensorflow: {{{}}}\n  python_function: {{loader_module: mlflow.tensorflow}}\n"
    graph = {
        f"tf2model/{name}": data for name, data in directory(lambda path: small().export(path, verbose=False)).items()
    }
    for description, files in (
        ("data: data, model_type: keras", {"data/model.keras": saved(small())}),
        ("saved_model_dir: tf2model, model_type: tf2-module", graph),
    ):
        model = opened({"MLmodel": head.format(description).encode(), **files}, "MLmodel")
        assert model.signature is not None
        got = model.functions(ROWS, [model.signature.outputs[0].name])[0]
        np.testing.assert_allclose(got, expected(), rtol=1e-4)
