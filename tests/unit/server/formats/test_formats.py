"""Models of every format that the development environment can make: their signatures and their predictions.

PyTorch and TensorFlow are in tests/integration/server/test_formats.py, in separate environments.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnx
import pytest
import xgboost
from onnx import TensorProto, helper
from skl2onnx import to_onnx  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlmodel_server import manifest, package
from mlmodel_server.engine import selftest
from mlmodel_server.engine.model import Model, model_of
from mlmodel_server.errors import ModelFailure, RefusedModel, UsageError
from mlmodel_server.formats import table
from mlmodel_server.formats.opened import CONTRIBUTIONS, Opened
from mlmodel_server.formats.tensorflow_common import array_of
from mlmodel_server.loading.detect import detect
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Local, Memory
from mlmodel_server.tensors import InferRequest, Tensor, TensorSpec, texts_of
from tests.unit.server.models import SEED, iris, joblib_bytes

pytestmark = pytest.mark.models

X = np.random.default_rng(SEED).random((120, 4))
TWO, THREE, NUMBER = (X[:, 0] > 0.5).astype(int), (X[:, 0] * 3).astype(int), X @ [1.0, -2.0, 3.0, 0.5]
TEXT = np.array(["no", "yes"])[TWO]


def opened(data: bytes, name: str = "model", **options: Any) -> Opened:
    return load(Memory({name: data}, name), **options).opened


def predictions(model: Opened, rows: Any, *outputs: str) -> list[Any]:
    return model.functions(rows, outputs)


@cache
def wrappers() -> dict[str, Any]:
    """Fitted scikit-learn wrappers by library and kind of labels."""
    xgb: dict[str, Any] = {"n_estimators": 5, "max_depth": 3, "n_jobs": 1, "verbosity": 0}
    lgb: dict[str, Any] = {"n_estimators": 5, "verbose": -1, "n_jobs": 1}
    return {
        "xgboost two": xgboost.XGBClassifier(**xgb).fit(X, TWO),
        "xgboost three": xgboost.XGBClassifier(**xgb).fit(X, THREE),
        "xgboost number": xgboost.XGBRegressor(**xgb).fit(X, NUMBER),
        "xgboost dart": xgboost.XGBClassifier(booster="dart", **xgb).fit(X, TWO),
        "xgboost linear": xgboost.XGBRegressor(booster="gblinear", **xgb).fit(X, NUMBER),
        "xgboost stopped": xgboost.XGBClassifier(**xgb | {"n_estimators": 40}, early_stopping_rounds=2).fit(
            X[:60], TWO[:60], eval_set=[(X[60:], 1 - TWO[60:])], verbose=False
        ),
        "lightgbm two": lightgbm.LGBMClassifier(**lgb).fit(X, TWO),
        "lightgbm three": lightgbm.LGBMClassifier(**lgb).fit(X, THREE),
        "lightgbm number": lightgbm.LGBMRegressor(**lgb).fit(X, NUMBER),
        "lightgbm text": lightgbm.LGBMClassifier(**lgb).fit(X, TEXT),
    }


def native(wrapper: Any) -> list[bytes]:
    """Return a wrapper in every form of a file that its library writes; LightGBM saves only its booster."""
    if isinstance(wrapper, xgboost.XGBModel):
        files = []
        for form in ("ubj", "json"):
            with tempfile.NamedTemporaryFile(suffix=f".{form}") as file:
                wrapper.save_model(file.name)
                files.append(Path(file.name).read_bytes())
        return files
    return [wrapper.booster_.model_to_string().encode()]


@pytest.mark.parametrize("name", list(wrappers()))
def test_a_wrapper_predicts_the_same_in_every_form(name: str) -> None:
    wrapper = wrappers()[name]
    forms = [joblib_bytes(wrapper), joblib_bytes(wrapper, 3), pickle.dumps(wrapper)]
    for data in [*forms, *(native(wrapper) if "xgboost" in name else [])]:
        model = opened(data)
        assert model.signature is not None
        names = [spec.name for spec in model.signature.outputs]
        found = predictions(model, X, *names)
        if hasattr(wrapper, "predict_proba"):
            assert names == ["predict", "predict_proba"]
            assert model.task == "classification"
            assert model.signature.classes == tuple(str(label) for label in wrapper.classes_)
            np.testing.assert_array_equal(found[0], wrapper.predict(X))
            np.testing.assert_allclose(found[1], wrapper.predict_proba(X), rtol=1e-6)
        else:
            assert names == ["predict"]
            assert model.task == "regression"
            np.testing.assert_allclose(found[0], wrapper.predict(X), rtol=1e-6)
        assert [spec.shape[1:] for spec in model.signature.outputs] == [array.shape[1:] for array in found]


def test_bytes_of_tensorflow_that_are_no_text_are_an_error_and_not_another_text() -> None:
    class Texts:
        def numpy(self) -> Any:
            return np.array([["na\u00efve".encode()], [b"\xff\xfe"]], object)

    array = array_of(Texts())
    assert texts_of("predict", array[:1]) == ["na\u00efve"]
    with pytest.raises(ModelFailure, match=r"output predict has .* bytes that are not UTF-8"):
        texts_of("predict", array)


@pytest.mark.parametrize("name", ["xgboost two", "xgboost three", "xgboost number", "lightgbm two", "lightgbm three"])
def test_contributions_add_up_to_the_raw_score(name: str) -> None:
    wrapper = wrappers()[name]
    model = opened(native(wrapper)[0])
    assert model.explain is not None
    (found,) = model.explain(X, [CONTRIBUTIONS])
    raw = (
        wrapper.get_booster().inplace_predict(X, predict_type="margin")
        if "xgboost" in name
        else wrapper.predict(X, raw_score=True)
    )
    assert found.shape == (len(X), *np.shape(raw)[1:], X.shape[1] + 1)
    np.testing.assert_allclose(found.sum(axis=-1), raw, rtol=1e-4, atol=1e-5)


def test_names_of_features_become_columns() -> None:
    names = ["age", "income", "size", "weight"]
    booster = xgboost.train({"nthread": 1}, xgboost.DMatrix(X, NUMBER, feature_names=names), 2)
    for data in (
        bytes(booster.save_raw("ubj")),
        lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(X, NUMBER, feature_name=names), 2)
        .model_to_string()
        .encode(),
    ):
        signature = opened(data).signature
        assert signature is not None
        assert signature.layout == "columns"
        assert [spec.name for spec in signature.inputs] == names


def test_a_booster_in_a_pipeline_predicts_the_same() -> None:
    fitted = make_pipeline(StandardScaler(), wrappers()["xgboost two"].__class__(n_estimators=3, n_jobs=1)).fit(X, TWO)
    model = opened(joblib_bytes(fitted))
    assert model.format == "joblib"
    np.testing.assert_array_equal(predictions(model, X, "predict")[0], fitted.predict(X))


def graph(inputs: list[Any], outputs: list[Any], *nodes: Any, weights: Any = ()) -> bytes:
    made = helper.make_graph(list(nodes), "g", inputs, outputs, list(weights))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString()


def info(name: str, kind: int, *shape: Any) -> Any:
    return helper.make_tensor_value_info(name, kind, list(shape))


def test_onnx_declares_its_tensors() -> None:
    data = graph(
        [info("pixels", TensorProto.FLOAT, "batch", 2, 3), info("words", TensorProto.STRING, "batch")],
        [info("sum", TensorProto.FLOAT, "batch", 3), info("same", TensorProto.STRING, "batch")],
        helper.make_node("ReduceSum", ["pixels", "axes"], ["sum"], keepdims=0),
        helper.make_node("Identity", ["words"], ["same"]),
        weights=[helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    model = opened(data)
    assert model.format == "onnx"
    assert model.signature is not None
    assert model.signature.layout == "tensors"
    assert model.signature.inputs == (TensorSpec("pixels", "FP32", (-1, 2, 3)), TensorSpec("words", "BYTES", (-1,)))
    assert model.signature.outputs == (TensorSpec("sum", "FP32", (-1, 3)), TensorSpec("same", "BYTES", (-1,)))
    response = model_of(model, None).infer(
        InferRequest(
            None,
            [
                Tensor("words", "BYTES", np.array(["a", "ü"], object)),
                Tensor("pixels", "FP32", np.ones((2, 2, 3), np.float32)),
            ],
            ["same", "sum"],
        )
    )
    assert response.outputs[0].array.tolist() == ["a", "ü"]
    assert response.outputs[1].array.tolist() == [[2, 2, 2], [2, 2, 2]]


def test_a_graph_of_fixed_shape_is_not_batchable() -> None:
    data = graph(
        [info("x", TensorProto.DOUBLE, 1, 3)],
        [info("y", TensorProto.DOUBLE, 1, 3)],
        helper.make_node("Neg", ["x"], ["y"]),
    )
    model = model_of(opened(data), None)
    assert not model.batchable
    assert model.signature.layout == "tensors"
    (answer,) = model.infer(InferRequest(None, [Tensor("x", "FP64", np.ones((1, 3)))], None)).outputs
    assert answer.array.tolist() == [[-1, -1, -1]]


@pytest.mark.parametrize("zipmap", [True, False])
def test_a_classifier_from_scikit_learn_keeps_its_probabilities(zipmap: bool) -> None:
    fitted, rows, _ = iris()
    rows = rows.astype(np.float32)
    data = to_onnx(fitted, rows[:1], options={"zipmap": zipmap}).SerializeToString()
    model = opened(data)
    assert model.signature is not None
    assert model.signature.layout == "matrix"
    label, probabilities = predictions(model, rows, *(spec.name for spec in model.signature.outputs))
    np.testing.assert_array_equal(label, fitted.predict(rows))
    np.testing.assert_allclose(probabilities, fitted.predict_proba(rows), rtol=1e-4, atol=1e-5)


def test_a_classifier_of_catboost_is_served_from_its_onnx_export() -> None:
    """A graph with the operators and outputs of CatBoost's: trees with a logistic function, the label as a number, and
    the probabilities as a dictionary by label."""
    names: dict[str, Any] = {"nodes_treeids": [0] * 3, "nodes_nodeids": [0, 1, 2], "nodes_featureids": [1, 0, 0]}
    modes: dict[str, Any] = {"nodes_modes": ["BRANCH_GT", "LEAF", "LEAF"], "nodes_values": [0.5, 0.0, 0.0]}
    children: dict[str, Any] = {
        "nodes_truenodeids": [2, 0, 0],
        "nodes_falsenodeids": [1, 0, 0],
        "nodes_hitrates": [1.0] * 3,
    }
    weights: dict[str, Any] = {
        "class_nodeids": [1, 1, 2, 2],
        "class_ids": [0, 1, 0, 1],
        "class_weights": [2.0, -2.0, -1.5, 1.5],
    }
    trees = helper.make_node(
        "TreeEnsembleClassifier", ["features"], ["label", "tensor"], domain="ai.onnx.ml", post_transform="LOGISTIC",
        classlabels_int64s=[0, 1], class_treeids=[0] * 4, **names, **modes, **children, **weights,
    )  # fmt: skip
    zipped = helper.make_node("ZipMap", ["tensor"], ["probabilities"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    maps = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    )
    outputs = [info("label", TensorProto.INT64, "N"), helper.make_value_info("probabilities", maps)]
    model = opened(graph([info("features", TensorProto.FLOAT, "N", 2)], outputs, trees, zipped))
    rows = np.array([[0.0, 0.9], [0.0, 0.1]], np.float32)
    label, probabilities = predictions(model, rows, "label", "probabilities")
    second = 1 / (1 + np.exp(-np.array([1.5, -2.0])))
    np.testing.assert_allclose(probabilities, np.column_stack([1 - second, second]), rtol=1e-6)
    assert label.tolist() == [1, 0]


@pytest.mark.parametrize("content", [b"CBM1" + bytes(40), b'{"features_info": {}, "oblivious_trees": []}'])
def test_a_file_of_catboost_is_refused_with_how_to_export_it(content: bytes) -> None:
    with pytest.raises(RefusedModel, match=r"export it to ONNX \(model\.save_model\('model\.onnx', format='onnx'\)\)"):
        load(Memory({"model.cbm": content}, "model.cbm"))


def test_a_type_that_the_protocol_does_not_have_is_reported() -> None:
    data = graph(
        [info("x", TensorProto.BFLOAT16, "n")],
        [info("y", TensorProto.BFLOAT16, "n")],
        helper.make_node("Identity", ["x"], ["y"]),
    )
    with pytest.raises(
        RefusedModel, match=r"x is of the ONNX type tensor\(bfloat16\), which the protocol does not have"
    ):
        opened(data)


def test_weights_in_another_file_are_detected_in_nested_graphs() -> None:
    """They are in a tensor of an attribute of a node of a graph in an attribute of a node."""
    outside = helper.make_tensor("w", TensorProto.FLOAT, [1], b"\0" * 4, raw=True)
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="weights.bin")
    constant = helper.make_node("Constant", [], ["c"], value=outside)
    branch = helper.make_graph([constant], "branch", [], [info("c", TensorProto.FLOAT, 1)])
    data = graph(
        [info("x", TensorProto.BOOL)],
        [info("y", TensorProto.FLOAT, 1)],
        helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch),
    )
    with pytest.raises(RefusedModel, match="refused external data in model"):
        opened(data)


FILES: dict[str, Callable[[], bytes]] = {
    "joblib": lambda: joblib_bytes(iris()[0]),
    "skops": lambda: package.build(*iris(), format="skops", compile=False)["model.skops"],
    "onnx": lambda: to_onnx(iris()[0], iris()[1][:1].astype(np.float32)).SerializeToString(),
    "xgboost": lambda: native(wrappers()["xgboost two"])[0],
    "lightgbm": lambda: native(wrappers()["lightgbm two"])[0],
}


@pytest.mark.parametrize("format", list(FILES))
def test_a_format_is_detected_from_content_and_not_from_the_name(format: str) -> None:
    data = FILES[format]()
    for name in ("model", "model.pkl", "model.onnx", "model.json", "weights.txt"):
        assert detect(name, data) == format
    assert opened(data, "model.bin", format=format).format == format
    with pytest.raises(RefusedModel, match=rf"model\.bin is {format}, but the required format is keras"):
        opened(data, "model.bin", format="keras")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"binf\0\0", r"deprecated binary format: load it with the XGBoost that wrote it and save it as \.ubj"),
        (b"\x89HDF\r\n\x1a\n", r"Keras' old format: save it as \.keras"),
        (b'{"name":"tree","version":"v4"', "a human-readable dump, not a model: save it with booster"),
        (b"GGUF\3\0\0\0", "export it to ONNX"),
        (b"ZF0x1", "written by joblib before 0.10"),
        (b"PK\x03\x04 damaged", "a damaged zip file"),
    ],
)
def test_an_error_for_a_known_format_that_is_not_served_says_what_to_do(data: bytes, words: str) -> None:
    with pytest.raises(RefusedModel, match=words):
        opened(data)


def test_an_error_for_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xgboost", None)
    monkeypatch.delitem(sys.modules, "xgboost")
    monkeypatch.setattr(table.importlib.util, "find_spec", lambda _: None)  # type: ignore[attr-defined]
    with pytest.raises(RefusedModel, match=r"requires xgboost, .* pip install '\.\[xgboost\]'; in the cluster, use"):
        opened(native(wrappers()["xgboost two"])[0])


def test_every_extra_in_an_error_exists() -> None:
    project = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text("utf-8"))["project"]
    assert {format.extra for format in table.FORMATS.values()} <= set(project["optional-dependencies"])


@pytest.mark.parametrize("format", list(FILES))
def test_a_model_on_one_thread_predicts_in_a_fork(format: str) -> None:
    model = opened(FILES[format](), threads=1)
    assert model.signature is not None
    rows = X.astype(np.float32) if model.signature.inputs[0].datatype == "FP32" else X
    names = [spec.name for spec in model.signature.outputs]
    expected = predictions(model, rows, *names)  # the parent predicts first, as it does in its self-test
    child = os.fork()
    if not child:
        same = all(np.array_equal(*pair) for pair in zip(expected, predictions(model, rows, *names), strict=True))
        os._exit(0 if same else 1)
    deadline = time.monotonic() + 120
    while not (exited := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.005)
    assert exited[1] == 0


MLMODEL = """
artifact_path: model
flavors:
  {flavour}
  python_function: {{loader_module: mlflow.sklearn, model_path: model.pkl, env: {{conda: conda.yaml}}}}
signature:
  inputs: '{inputs}'
  outputs: '[{{"type": "tensor", "tensor-spec": {{"dtype": "int64", "shape": [-1]}}}}]'
"""
NAMED = json.dumps([{"type": "double", "name": name, "required": True} for name in "abcd"])


def mlflow(flavour: str, files: dict[str, bytes], inputs: str = NAMED) -> Opened:
    description = MLMODEL.format(flavour=flavour, inputs=inputs).encode()
    return load(Memory({"MLmodel": description, **files}, "MLmodel")).opened


@pytest.mark.parametrize("name", ["sklearn", "xgboost", "lightgbm"])
def test_an_mlflow_directory_is_served_by_its_native_flavour(name: str) -> None:
    original = iris()[0] if name == "sklearn" else wrappers()[f"{name} two"]
    rows = iris()[1] if name == "sklearn" else X
    data = native(original)[0] if name == "xgboost" else pickle.dumps(original)
    key = "pickled_model" if name == "sklearn" else "data"
    model = mlflow(f"{name}: {{{key}: data/model.bin}}", {"data/model.bin": data})
    assert model.signature is not None
    assert model.signature.layout == "columns"
    assert [(spec.name, spec.datatype) for spec in model.signature.inputs] == [(name, "FP64") for name in "abcd"]
    columns = [Tensor(name, "FP64", rows[:, index]) for index, name in enumerate("abcd")]
    (found,) = model_of(model, None).infer(InferRequest(None, columns, None)).outputs
    np.testing.assert_array_equal(found.array, original.predict(rows))


def test_mlflow_columns_that_do_not_fit_are_ignored() -> None:
    for inputs in (
        json.dumps([{"type": "double", "name": "a"}]),
        "not json",
        json.dumps([{"type": "binary", "name": "a"}]),
    ):
        model = mlflow("sklearn: {pickled_model: m.pkl}", {"m.pkl": pickle.dumps(iris()[0])}, inputs)
        assert model.signature is not None
        assert model.signature.layout == "matrix"


def test_mlflow_onnx_keeps_its_tensors() -> None:
    model = mlflow("onnx: {data: model.onnx}", {"model.onnx": FILES["onnx"]()})
    assert model.format == "onnx"


PACKAGED: dict[str, Callable[[], Any]] = {
    "xgboost wrapper": lambda: wrappers()["xgboost three"],
    "xgboost booster": lambda: wrappers()["xgboost number"].get_booster(),
    "lightgbm wrapper": lambda: wrappers()["lightgbm three"],
    "lightgbm booster": lambda: wrappers()["lightgbm number"].booster_,
    "lightgbm with labels": lambda: wrappers()["lightgbm text"],
    "onnx model": lambda: onnx.load_from_string(FILES["onnx"]()),
    "onnx bytes": lambda: FILES["onnx"](),
    "joblib bytes": lambda: FILES["joblib"](),
}


@pytest.mark.parametrize("name", list(PACKAGED))
def test_a_package_of_any_format_passes_its_self_test(name: str, tmp_path: Path) -> None:
    model = PACKAGED[name]()
    rows = iris()[1] if "onnx" in name or "joblib" in name else X
    directory = package.save(model, rows, None, tmp_path / "model", version="v1", compile=False)
    loaded = load(Local(directory))
    assert loaded.manifest is not None
    selftest.run(model_of(loaded.opened, loaded.manifest), loaded.manifest.golden)
    rebuilt = package.build(PACKAGED[name](), rows, None, version="v1", compile=False)
    assert {entry.name: entry.read_bytes() for entry in directory.iterdir()} == rebuilt
    assert loaded.manifest.profile


def test_models_of_every_library_are_scored() -> None:
    for model, labels, name in (
        (wrappers()["xgboost two"], TWO, "accuracy"),
        (wrappers()["lightgbm text"], TEXT, "accuracy"),
        (wrappers()["lightgbm number"].booster_, NUMBER, "rmse"),
    ):
        described = manifest.parse(package.build(model, X, labels, compile=False)["mlmodel.json"])
        assert name in described.metrics
        assert described.predictions
    assert described.libraries["lightgbm"] == lightgbm.__version__


def test_a_package_replaces_the_files_of_the_one_before(tmp_path: Path) -> None:
    package.save(*iris(), tmp_path, compile=False)
    (tmp_path / "notes.txt").write_text("mine")
    package.save(wrappers()["xgboost two"], X, TWO, tmp_path, compile=False)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["mlmodel.json", "model.ubj", "notes.txt"]


@pytest.mark.parametrize(
    ("model", "rows", "words"),
    [
        (lambda: xgboost.XGBClassifier(), X, "not fitted: call fit first"),
        (lambda: lightgbm.LGBMClassifier(), X, "not fitted: call fit first"),
        (lambda: wrappers()["xgboost two"].get_booster(), X[:, :3], r"must have the shape \[-1, 4\], not \[120, 3\]"),
        (lambda: b"binf", X, "deprecated binary format"),
        (lambda: "nowhere", X, "'nowhere' does not exist"),
        (lambda: FILES["onnx"](), [1.0, 2.0], "must be a table of shape"),
        (lambda: FILES["onnx"](), "rows", "X is of the type str: pass rows"),
    ],
)
def test_a_model_that_cannot_be_packaged_is_reported_in_one_sentence(
    model: Callable[[], Any], rows: Any, words: str
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        package.build(model(), rows, None)
    assert "\n" not in str(caught.value)


def test_a_model_of_one_row_is_packaged() -> None:
    data = graph(
        [info("x", TensorProto.FLOAT, 1, 3)],
        [info("y", TensorProto.FLOAT, 1, 3)],
        helper.make_node("Neg", ["x"], ["y"]),
    )
    files = package.build(data, np.ones((1, 3)), None)
    loaded = load(Memory(files))
    assert loaded.manifest is not None
    assert loaded.manifest.golden.outputs[0]["data"] == [-1, -1, -1]
    model = Model(loaded.opened.functions, loaded.manifest.signature)
    assert not model.batchable
    selftest.run(model, loaded.manifest.golden)


def test_a_logistic_regression_is_saved_as_skops() -> None:
    assert package.build(LogisticRegression().fit(X, TWO), X, TWO, compile=False).keys() == {
        "model.skops",
        "mlmodel.json",
    }
