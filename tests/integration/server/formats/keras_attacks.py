"""Keras: files that do more than compute are rejected, and what is built is what was checked."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.operators import allowed
from mlmodel_server.formats.table import library
from mlmodel_server.formats.tensorflow_common import tensorflow
from tests.integration.server.formats.tensorflow_attacks import WRITERS, Files, answer, first, opened

tf = tensorflow(1)
keras = library("keras")
h5py = library("h5py")


def small() -> Any:
    return keras.Sequential([keras.Input((4,), name="row"), keras.layers.Dense(3, activation="relu")])


def saved(model: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/m.keras")
        return Path(folder, "m.keras").read_bytes()


def members(data: bytes) -> Files:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive(files: Files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name, content in files.items():
            target.writestr(name, content)
    return buffer.getvalue()


def configured(change: Callable[[Any], None], model: Any = None) -> Files:
    files = members(saved(model or small()))
    content = json.loads(files["config.json"])
    change(content)
    return {**files, "config.json": json.dumps(content).encode()}


def part(module: Any, name: Any, config: Any, registered: Any = None) -> dict[str, Any]:
    return {"module": module, "class_name": name, "config": config, "registered_name": registered}


def layer(module: Any, name: Any, config: Any, registered: Any = None) -> Callable[[Any], None]:
    return lambda content: content["config"]["layers"].append(part(module, name, config, registered))


def inner(value: Any, key: str = "activation") -> Callable[[Any], None]:
    """Return a change of an argument of the layer."""
    return lambda content: content["config"]["layers"][-1]["config"].update({key: value})


ONLY = "a Keras model may only have Keras' own layers"
CONFIGURATIONS: dict[str, tuple[Callable[[Any], None], str]] = {
    "code": (layer("keras.layers", "Lambda", {"function": {}}), r"keras\.layers\.Lambda"),
    "code in an argument": (inner({"class_name": "__lambda__", "config": {"value": "x"}}), "None.__lambda__"),
    "a type of TensorFlow": (
        inner({"class_name": "__typespec__", "spec_name": "a", "module": "os", "config": [], "registered_name": None}),
        r"os\.__typespec__",
    ),
    "a model from a path": (
        layer("keras.layers", "TFSMLayer", {"filepath": "/tmp/model"}),
        r"keras\.layers\.TFSMLayer",
    ),
    "another framework": (layer("keras.layers", "TorchModuleWrapper", {}), r"keras\.layers\.TorchModuleWrapper"),
    "a module": (layer("os", "system", {}), r"os\.system"),
    "a module of Keras": (
        layer("keras.src.utils.file_utils", "get_file", {}),
        r"keras\.src\.utils\.file_utils\.get_file",
    ),
    "a download": (inner(part("keras.utils", "function", "get_file", "get_file")), r"keras\.utils\.function get_file"),
    "a function by name": (
        inner(part("builtins", "function", "load_model", "load_model")),
        "builtins.function load_model",
    ),
    "a function of another kind": (
        inner(part("keras.activations", "function", "deserialize")),
        "keras.activations.function deserialize",
    ),
    "a function of layers": (
        inner(part("keras.layers", "function", "deserialize")),
        "keras.layers.function deserialize",
    ),
    "an operation that takes functions": (layer("keras.src.ops.core", "Map", {}, "Map"), r"keras\.src\.ops\.core\.Map"),
    "a registered class": (
        layer("keras.layers", "Dense", {"units": 1}, "my>Dense"),
        "keras.layers.Dense registered as my",
    ),
    "a name with dots": (layer("keras", "layers.Dense", {"units": 1}), r"keras\.layers\.Dense"),
    "a name that is not a text": (layer("keras.layers", ["Dense"], {}), "keras.layers"),
    "a module that is not a text": (layer(["keras.layers"], "Dense", {}), "keras.layers"),
    "no module": (layer(None, "Dense", {"units": 1}), "None.Dense"),
    "a vocabulary file": (
        layer("keras.layers", "StringLookup", {"vocabulary": "/etc/passwd"}),
        r"a vocabulary that is not a list",
    ),
    "a vocabulary file of text": (
        layer("keras.layers", "TextVectorization", {"vocabulary": "/etc/passwd"}),
        r"a vocabulary that is not a list",
    ),
    "a vocabulary that is an object": (
        layer("keras.layers", "StringLookup", {"vocabulary": part(None, "__bytes__", {"value": "/etc/passwd"})}),
        r"a vocabulary that is not a list",
    ),
    "a state": (layer("keras.layers", "LSTM", {"units": 1, "stateful": True}), "a layer that keeps a state"),
    "weights without end": (
        lambda content: content["config"]["layers"][-1]["config"].update(units=1 << 40),
        "layers with more weights than the file contains",
    ),
}


@pytest.mark.parametrize("name", list(CONFIGURATIONS))
def test_a_configuration_that_does_more_than_compute_is_rejected(name: str) -> None:
    change, what = CONFIGURATIONS[name]
    with pytest.raises(RefusedModel, match=rf"refused .*{what}.* in m\.keras: {ONLY}"):
        opened({"m.keras": archive(configured(change))}, "m.keras")


def _written(change: Callable[[Any], None]) -> Files:
    files = members(saved(small()))
    buffer = io.BytesIO(files["model.weights.h5"])
    with h5py.File(buffer, "a") as file:
        change(file)
    return {**files, "model.weights.h5": buffer.getvalue()}


def _sparse_weights(file: Any) -> None:
    file.create_dataset("layers/more", (1 << 40,), "f4", chunks=(1024,))


WEIGHTS: dict[str, tuple[Callable[[Any], None], str]] = {
    "another file": (
        lambda file: file.create_dataset("layers/more", (4,), "u1", external=[("/etc/hostname", 0, 4)]),
        "weights in another file",
    ),
    "an external link": (
        lambda file: file.__setitem__("layers/more", h5py.ExternalLink("/etc/hostname", "/a")),
        "a link to other weights",
    ),
    "a soft link": (lambda file: file.__setitem__("layers/more", h5py.SoftLink("/layers")), "a link to other weights"),
    "weights that are not stored": (_sparse_weights, "weights that are compressed, missing or not numbers"),
    "compressed weights": (
        lambda file: file.create_dataset("layers/more", data=np.zeros(1 << 20), compression="gzip"),
        "weights that are compressed, missing or not numbers",
    ),
    "objects": (
        lambda file: file.create_dataset("layers/more", data="text"),
        "weights that are compressed, missing or not numbers",
    ),
}


@pytest.mark.parametrize("name", list(WEIGHTS))
def test_weights_outside_of_the_file_are_rejected(name: str) -> None:
    change, what = WEIGHTS[name]
    with pytest.raises(RefusedModel, match=rf"refused {what} in m\.keras: {ONLY}"):
        opened({"m.keras": archive(_written(change))}, "m.keras")


def test_an_archive_of_keras_is_written_anew() -> None:
    files = members(saved(small()))
    with pytest.raises(RefusedModel, match=r"refused the path '\.\./m'"):
        opened({"m.keras": archive({**files, "../m": b""})}, "m.keras")
    with pytest.raises(RefusedModel, match=r"refused the path '/m'"):
        opened({"m.keras": archive({**files, "/m": b""})}, "m.keras")
    buffer = io.BytesIO(archive(files))
    with zipfile.ZipFile(buffer, "a") as target, pytest.warns(UserWarning, match="Duplicate"):
        target.writestr("config.json", files["config.json"])
    with pytest.raises(RefusedModel, match="refused a member that is there twice"):
        opened({"m.keras": buffer.getvalue()}, "m.keras")
    without = {name: content for name, content in files.items() if name != "model.weights.h5"}
    with pytest.raises(RefusedModel, match=r"refused a file without model\.weights\.h5"):
        opened({"m.keras": archive({**without, "model.weights.npz": b""})}, "m.keras")
    twice = files["config.json"].replace(b'"class_name": "Dense"', b'"class_name": "Lambda", "class_name": "Dense"')
    assert twice != files["config.json"]
    expected = answer(opened({"m.keras": archive(files)}, "m.keras"))
    more = {**files, "config.json": twice, "assets/../evil.txt": b"x"}
    with pytest.raises(RefusedModel, match="refused the path"):
        opened({"m.keras": archive(more)}, "m.keras")
    del more["assets/../evil.txt"]
    np.testing.assert_array_equal(answer(opened({"m.keras": archive({**more, "notes": b"x"})}, "m.keras")), expected)


def test_what_only_training_needs_is_not_opened() -> None:
    loss = part("os", "system", "true")
    files = configured(lambda content: content.update(compile_config={"optimizer": loss, "loss": loss}))
    expected = answer(opened({"m.keras": saved(small())}, "m.keras")).shape
    assert answer(opened({"m.keras": archive(files)}, "m.keras")).shape == expected


def test_every_listed_name_of_keras_exists() -> None:
    exported = library("keras.src.api_export").get_symbol_from_name
    for name in sorted(allowed("keras")):
        module, _, last = name.rpartition(".")
        found = exported(name) or getattr(library(module), last, None)
        assert found is not None, name


def test_mlflow_directories_go_through_the_same_checks(tmp_path: Path) -> None:
    head = "flavors:\n  tensorflow: {{{}}}\n  python_function: {{loader_module: mlflow.tensorflow}}\n"
    hostile = first(lambda rows: WRITERS["SaveV2"](str(tmp_path / "ran"), rows))
    graph = {f"tf2model/{name}": data for name, data in hostile.items()}
    code = archive(configured(CONFIGURATIONS["code"][0]))
    for description, files, what in (
        ("saved_model_dir: tf2model", graph, "the operator SaveV2"),
        ("data: data", {"data/model.keras": code}, r"keras\.layers\.Lambda"),
    ):
        with pytest.raises(RefusedModel, match=f"refused {what}"):
            opened({"MLmodel": head.format(description).encode(), **files}, "MLmodel")
    assert not list(tmp_path.iterdir())
