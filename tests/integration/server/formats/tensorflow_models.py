"""TensorFlow: SavedModel directories and Keras files are served, and files that do more than predict are rejected."""

from __future__ import annotations

import tempfile
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


def keras_models() -> dict[str, tuple[Callable[[], Any], Any]]:
    """Models of everyday kinds, each with rows."""
    layers, inputs = keras.layers, keras.Input
    generator = np.random.default_rng(7)
    words = np.array([["big dog"], ["other, dog!"]], object)

    def numbers(*shape: int) -> Any:
        return generator.random((5, *shape)).astype(np.float32)

    def sequence(*made: Any) -> Any:
        return lambda: keras.Sequential(list(made))

    def adapted(layer: Any, rows: Any) -> Any:
        layer.adapt(rows)
        return layer

    def transformer() -> Any:
        rows = inputs((6, 8))
        attended = layers.LayerNormalization()(rows + layers.MultiHeadAttention(2, 4)(rows, rows))
        pooled = layers.GlobalMaxPooling1D()(layers.Dense(8, activation="gelu")(attended) * 2.0)
        return keras.Model(rows, layers.Dense(2)(pooled))

    text = inputs((1,), dtype="string")
    vectorised = adapted(layers.TextVectorization(10, output_sequence_length=4), words.ravel())
    weighted = adapted(layers.TextVectorization(20, output_mode="tf_idf", ngrams=2), words.ravel())
    one = inputs((1,), dtype="string")
    return {
        "images": (
            sequence(inputs((12, 12, 1)), layers.Rescaling(0.5), layers.Conv2D(4, 3, activation="relu"),
                     layers.BatchNormalization(), layers.MaxPooling2D(), layers.SeparableConv2D(4, 3),
                     layers.GlobalAveragePooling2D(), layers.Dense(3)),
            numbers(12, 12, 1),
        ),
        "sequences": (
            sequence(inputs((6, 3)), layers.Bidirectional(layers.LSTM(4, return_sequences=True)), layers.GRU(4)),
            numbers(6, 3),
        ),
        "transformer": (transformer, numbers(6, 8)),
        "normalised": (
            sequence(inputs((4,)), adapted(layers.Normalization(), numbers(4)), layers.Dense(1)),
            numbers(4),
        ),
        "text": (sequence(text, vectorised, layers.Embedding(12, 3), layers.GlobalAveragePooling1D()), words),
        "weighted text": (sequence(text, weighted), words),
        "categories": (
            sequence(one, layers.StringLookup(vocabulary=["a", "b"]), layers.Embedding(4, 3), layers.Flatten()),
            np.array([["a"], ["z"]], object),
        ),
        "hashes": (sequence(one, layers.Hashing(8, output_mode="one_hot")), np.array([["a"], ["z"]], object)),
        "half": (
            sequence(inputs((4,)), layers.Dense(3, dtype="mixed_float16"), layers.Dense(1, dtype="float32")),
            numbers(4),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("exported", [False, True], ids=["file", "directory"])
@pytest.mark.parametrize("name", list(keras_models()))
def test_everyday_models_are_served_exactly_as_tensorflow_serves_them(name: str, exported: bool) -> None:
    make, rows = keras_models()[name]
    if exported:
        files, entry = directory(lambda path: make().export(path, verbose=False)), "saved_model.pb"
    else:
        files, entry = {"m.keras": saved(make())}, "m.keras"
    strict = opened(files, entry)
    trusted = opened(files, entry, trust="unsafe", allow_unsafe=True)
    assert strict.signature == trusted.signature
    assert strict.signature is not None
    (output,) = strict.signature.outputs
    table = rows if strict.signature.layout == "matrix" else {strict.signature.inputs[0].name: rows}
    got, expected = (model.functions(table, [output.name])[0] for model in (strict, trusted))
    np.testing.assert_array_equal(got, expected)


def first_graphs() -> dict[str, Callable[[Any], Any]]:
    """Graphs of TensorFlow 1 on rows of four numbers."""
    v1 = tf.compat.v1

    def weighted(resource: bool) -> Any:
        def build(rows: Any) -> Any:
            options = {"use_resource": resource, "initializer": v1.glorot_uniform_initializer(seed=1)}
            return tf.nn.softmax(rows @ v1.get_variable("w", (4, 3), **options))

        return build

    def loop(rows: Any) -> Any:
        v1.disable_control_flow_v2()
        try:
            return v1.while_loop(lambda step, _: step < 5, lambda step, value: (step + 1, value * 1.5), [0, rows])[1]
        finally:
            v1.enable_control_flow_v2()

    return {"references": weighted(False), "resources": weighted(True), "a loop": loop}


@pytest.mark.parametrize("name", list(first_graphs()))
def test_graphs_of_tensorflow_1_are_served(name: str) -> None:
    v1 = tf.compat.v1

    def write(path: str) -> None:
        with tf.Graph().as_default(), v1.Session() as session:
            rows = v1.placeholder(tf.float32, (None, 4), name="rows")
            result = first_graphs()[name](rows)
            v1.get_variable("unused", (1,))
            session.run(v1.global_variables_initializer())
            v1.saved_model.simple_save(session, f"{path}/model", {"rows": rows}, {"y": result})

    files = {key.removeprefix("model/"): data for key, data in directory(write).items()}
    strict = opened(files, "saved_model.pb")
    trusted = opened(files, "saved_model.pb", trust="unsafe", allow_unsafe=True)
    assert strict.signature == trusted.signature
    np.testing.assert_array_equal(strict.functions(ROWS, ["y"])[0], trusted.functions(ROWS, ["y"])[0])


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
