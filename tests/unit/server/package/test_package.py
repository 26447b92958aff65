"""Packages: what they contain, that the same model gives the same bytes, and which models cannot be saved."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import SVC

from mlmodel_server import manifest, package
from mlmodel_server.engine import selftest
from mlmodel_server.engine.model import Model, model_of
from mlmodel_server.errors import RefusedModel, UsageError
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Local, Memory
from mlmodel_server.manifest import MANIFEST, Manifest
from mlmodel_server.package.configmap import MAX_CONFIG_MAP
from mlmodel_server.protocol import v2
from tests.unit.server.models import SEED, iris, mixed, mixed_table

pytestmark = pytest.mark.models


def served(files: dict[str, bytes]) -> tuple[Model, Manifest]:
    loaded = load(Memory(files))
    assert loaded.manifest is not None
    return model_of(loaded.opened, loaded.manifest), loaded.manifest


def test_a_saved_directory_contains_all_that_a_server_checks(tmp_path: Path) -> None:
    directory = package.save(*iris(), tmp_path / "deep" / "iris", version="v1")
    assert sorted(entry.name for entry in directory.iterdir()) == ["compiled.onnx", MANIFEST, "model.skops"]
    described = manifest.parse((directory / MANIFEST).read_bytes())
    artefact = (directory / "model.skops").read_bytes()
    assert described.files["model.skops"].sha256 == manifest.sha256(artefact)
    assert described.files["model.skops"].bytes == len(artefact)
    assert described.version == "v1"
    assert described.task == "classification"
    assert described.signature.classes == ("0", "1", "2")
    assert {spec.name: spec.datatype for spec in described.signature.outputs} == {
        "predict": "INT64",
        "predict_proba": "FP64",
        "decision_function": "FP64",
    }
    assert described.golden.outputs[0]["shape"] == [12]
    assert set(described.golden.outputs[0]["data"]) == {0, 1, 2}, "every class is among the golden examples"
    assert set(described.metrics) == {"rows", "of", "accuracy", "precision", "recall", "f1"}
    assert described.libraries["numpy"] == np.__version__
    assert len(described.profile["input-0[0]"]["deciles"]) == 9


def test_saving_again_in_another_format_leaves_one_artefact(tmp_path: Path) -> None:
    package.save(*iris(), tmp_path)
    package.save(*iris(), tmp_path, format="joblib", compile=False)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [MANIFEST, "model.joblib"]
    assert load(Local(tmp_path)).opened.format == "joblib"


@pytest.mark.parametrize("format", ["skops", "joblib"])
def test_the_same_model_gives_the_same_bytes(format: Any) -> None:
    model, X, y = mixed()
    again, _, _ = mixed()
    assert package.build(model, X, y, format=format) == package.build(again, X, y, format=format)
    forest = [RandomForestClassifier(3, random_state=SEED).fit(*iris()[1:]) for _ in range(2)]
    first, second = (package.build(model, *iris()[1:], format=format) for model in forest)
    assert first == second


def test_a_package_contains_the_model_as_onnx_if_that_won_else_the_reason() -> None:
    files = package.build(*iris())
    described = manifest.parse(files[MANIFEST])
    assert described.compiled is not None
    assert described.compiled.file == "compiled.onnx"
    assert described.compiled.rows > 1000
    assert described.files["compiled.onnx"].sha256 == manifest.sha256(files["compiled.onnx"])
    _, X, y = iris()
    files = package.build(KNeighborsClassifier().fit(X, y), X, y)
    described = manifest.parse(files[MANIFEST])
    assert described.compiled is not None
    assert (described.compiled.file, "compiled.onnx" in files) == ("", False)
    assert "KNeighborsClassifier" in described.compiled.reason
    assert manifest.parse(package.build(*iris(), compile=False)[MANIFEST]).compiled is None


def test_a_model_with_names_of_columns_serves_without_pandas_and_predicts_the_same() -> None:
    model, X, y = mixed()
    expected = model.predict(X).tolist()
    engine, described = served(package.build(model, X, y, compile=False))
    selftest.run(engine, described.golden)
    assert [(spec.name, spec.datatype, spec.shape) for spec in described.signature.inputs] == [
        ("amount", "FP64", (-1,)),
        ("count", "INT64", (-1,)),
        ("country", "BYTES", (-1,)),
        ("level", "BYTES", (-1,)),
        ("member", "BOOL", (-1,)),
    ]
    inputs = [
        {"name": name, "shape": [len(X)], "datatype": datatype, "data": X[name].tolist()}
        for name, datatype, _ in [(spec.name, spec.datatype, 0) for spec in described.signature.inputs]
    ]
    response = engine.infer(v2.decode(json.dumps({"inputs": inputs[::-1]}).encode()))
    assert response.outputs[0].array.tolist() == expected
    assert model.predict(X).tolist() == expected, "the caller's model is unchanged"
    assert list(model.feature_names_in_) == list(X.columns)


@pytest.mark.parametrize(
    "columns",
    [
        ColumnTransformer([("n", StandardScaler(), make_column_selector(dtype_include="number"))]),
        ColumnTransformer([("n", StandardScaler(), slice("amount", "count")), ("t", OrdinalEncoder(), ["country"])]),
        ColumnTransformer([("t", OneHotEncoder(), [2, 3])], remainder=StandardScaler()),
        ColumnTransformer([("n", "passthrough", ["amount"]), ("t", OneHotEncoder(), ["level"])]).set_output(
            transform="default"
        ),
        make_pipeline(
            ColumnTransformer(
                [("n", StandardScaler(), ["amount"]), ("t", OrdinalEncoder(), ["country"])],
                verbose_feature_names_out=False,
            ).set_output(transform="pandas"),
            ColumnTransformer([("again", OneHotEncoder(), ["country"])], remainder="passthrough"),
        ),
    ],
    ids=["selector", "slice", "positions", "passthrough", "set_output"],
)
def test_every_way_to_select_columns_works(columns: Any) -> None:
    X, y = mixed_table()
    model = make_pipeline(columns, LogisticRegression()).fit(X, y)
    engine, described = served(package.build(model, X, y, compile=False))
    selftest.run(engine, described.golden)


def test_a_search_is_saved_as_its_best_estimator() -> None:
    _, X, y = iris()
    search = GridSearchCV(make_pipeline(StandardScaler(), SVC()), {"svc__C": [1, 10]}, scoring="accuracy", cv=2).fit(
        X, y
    )
    loaded = load(Memory(package.build(search, X, y, compile=False)))
    assert type(loaded.opened.estimator).__name__ == "Pipeline"


def test_a_regressor_gets_mae_and_rmse() -> None:
    _, X, _ = iris()
    y = X @ [1.0, 2.0, 3.0, 4.0] + np.resize([0.5, -0.5], len(X))
    described = manifest.parse(package.build(LinearRegression().fit(X, y), X, y, compile=False)[MANIFEST])
    assert described.task == "regression"
    assert described.metrics["mae"] == pytest.approx(0.5, abs=0.05)
    assert described.metrics["rmse"] == pytest.approx(0.5, abs=0.05)
    assert not described.signature.classes


def test_scores_of_two_classes_are_of_the_second() -> None:
    X = np.array([[0.0], [0.0], [1.0], [1.0]] * 3)
    model = LogisticRegression(C=1e6).fit(X, np.array(["no", "no", "yes", "yes"] * 3))
    metrics = manifest.parse(
        package.build(model, X, np.array(["no", "yes", "yes", "yes"] * 3), compile=False)[MANIFEST]
    ).metrics
    assert metrics == {"rows": 12, "of": "yes", "accuracy": 0.75, "precision": 1.0, "recall": 6 / 9, "f1": 0.8}


def test_rows_with_missing_values_are_golden_examples_after_the_complete_ones() -> None:
    X = pd.DataFrame({"a": [1.0, np.nan, 3.0, 4.0], "b": ["x", "y", None, "x"]})
    columns = ColumnTransformer([("a", SimpleImputer(), ["a"]), ("b", OneHotEncoder(handle_unknown="ignore"), ["b"])])
    model = make_pipeline(columns, LogisticRegression()).fit(X, [0, 1, 0, 1])
    described = manifest.parse(package.build(model, X, None, compile=False)[MANIFEST])
    numbers, texts = (tensor["data"] for tensor in described.golden.inputs)
    assert set(numbers[:2]) == {1.0, 4.0}
    assert set(zip(numbers[2:], texts[2:], strict=True)) == {(None, "y"), (3.0, None)}
    assert described.profile["a"]["missing"] == described.profile["b"]["missing"] == 1
    assert described.profile["b"]["values"] == {"x": 2, "y": 1}
    assert described.metrics == {}


def test_the_self_test_fails_if_the_predictions_are_not_those_of_the_saved_model() -> None:
    engine, described = served(package.build(*iris(), compile=False))
    predict, proba, _ = described.golden.outputs
    for output, wrong in ((predict, [9, *predict["data"][1:]]), (proba, [x + 1e-5 for x in proba["data"]])):
        golden = manifest.Golden(described.golden.inputs, ({**output, "data": wrong},))
        with pytest.raises(
            RefusedModel, match=rf"of 12 golden examples differ in {output['name']} \(first: example 0\)"
        ):
            selftest.run(engine, golden)
    close = {**proba, "data": [x * (1 + 1e-8) for x in proba["data"]]}
    selftest.run(engine, manifest.Golden(described.golden.inputs, (close,)))


def arguments(**changes: Any) -> Any:
    model, X, y = iris()
    options = {"model": model, "X": X, "y": y, **changes}
    return options.pop("model"), options.pop("X"), options.pop("y"), options


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": SVC()}, "the SVC is not fitted: call fit first"),
        ({"model": object()}, "object is not a model of scikit-learn"),
        ({"method": "transform"}, "has no method 'transform' that a server calls: use one of predict, predict_proba"),
        ({"outputs": ["kneighbors"]}, "has no method 'kneighbors' that a server calls"),
        ({"y": [1, 2]}, "X has 150 rows, but y has 2"),
        ({"y": ["a"] * 150}, "y does not fit the model's predictions"),
        ({"X": [1.0, 2.0]}, "must be a table of shape"),
        ({"X": np.zeros((3, 9)), "y": None}, r"cannot predict X \(ValueError"),
        ({"format": "onnx"}, "format is 'onnx': use"),
        ({"compress": 10}, "compress is 10: use 0"),
    ],
)
def test_a_wrong_argument_is_reported_in_one_sentence(changes: dict[str, Any], words: str) -> None:
    model, X, y, options = arguments(**changes)
    with pytest.raises(UsageError, match=words) as caught:
        package.build(model, X, y, **options)
    assert "\n" not in str(caught.value)


def custom_function(X: Any) -> Any:
    return X


def test_a_model_that_no_server_would_load_is_not_saved() -> None:
    _, X, y = iris()
    for function in (custom_function, lambda X: X):
        model = make_pipeline(FunctionTransformer(function), LogisticRegression(max_iter=500)).fit(X, y)
        with pytest.raises(UsageError, match=r"refused .*custom_function in model\.joblib|cannot be pickled"):
            package.build(model, X, y)


def test_the_config_map_is_immutable_and_contains_the_package(tmp_path: Path) -> None:
    package.save(*iris(), tmp_path)
    (tmp_path / "notes.txt").write_text("not part of the package")
    content = yaml.safe_load(package.config_map(tmp_path, "iris-v1"))
    assert content["kind"] == "ConfigMap"
    assert content["metadata"] == {"name": "iris-v1"}
    assert content["immutable"] is True
    files = {name: base64.b64decode(data) for name, data in content["binaryData"].items()}
    assert files == {name: (tmp_path / name).read_bytes() for name in (MANIFEST, "model.skops", "compiled.onnx")}


def test_an_error_for_a_package_that_does_not_fit_a_config_map_says_where_else_to_put_it(tmp_path: Path) -> None:
    (tmp_path / "model.joblib").write_bytes(bytes(MAX_CONFIG_MAP))
    assert package.config_map(tmp_path, "fits").startswith("# Too large for the annotation of a plain apply")
    (tmp_path / "model.joblib").write_bytes(bytes(MAX_CONFIG_MAP + 1))
    with pytest.raises(UsageError, match=r"holds 1,048,576: save it with compress=9, or put the directory on a volume"):
        package.config_map(tmp_path, "too-big")


@pytest.mark.parametrize("name", ["", "Fraud", "a_b", "-a", "a" * 254])
def test_a_wrong_config_map_name_is_rejected(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot name a ConfigMap"):
        package.config_map(tmp_path, name)
