"""Directories that MLflow writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from mlmodel_server.engine.model import Model, model_of
from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.table import library
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Local
from mlmodel_server.package.table import tensors_of
from mlmodel_server.tensors import InferRequest

mlflow = library("mlflow")
PythonModel: Any = mlflow.pyfunc.PythonModel
infer_signature = library("mlflow.models").infer_signature
random = np.random.default_rng(7)
TABLE = pd.DataFrame({"age": random.random(60) * 90, "income": random.random(60)})
MIXED = TABLE.assign(country=random.choice(["de", "fr"], 60))
LABELS = (TABLE["age"] > 45).to_numpy().astype(int)


def served(directory: Path) -> Model:
    return model_of(load(Local(directory)).opened, None)


def predict(model: Model, table: Any) -> Any:
    _, tensors = tensors_of(table)
    return model.infer(InferRequest(None, tensors, ["predict"])).outputs[0].array


@pytest.mark.parametrize("form", ["skops", "pickle", "cloudpickle"])
def test_scikit_learn(form: str, tmp_path: Path) -> None:
    columns = ColumnTransformer([("n", StandardScaler(), ["age", "income"]), ("t", OneHotEncoder(), ["country"])])
    fitted = make_pipeline(columns, LogisticRegression()).fit(MIXED, LABELS)
    signature = infer_signature(MIXED, fitted.predict(MIXED))
    mlflow.sklearn.save_model(fitted, tmp_path / "model", signature=signature, serialization_format=form)
    model = served(tmp_path / "model")
    assert [(spec.name, spec.datatype) for spec in model.signature.inputs] == [
        ("age", "FP64"), ("income", "FP64"), ("country", "BYTES"),
    ]  # fmt: skip
    np.testing.assert_array_equal(predict(model, MIXED), fitted.predict(MIXED))


def _xgboost(path: Path) -> Any:
    import xgboost

    fitted = xgboost.XGBClassifier(n_estimators=3, n_jobs=1).fit(TABLE, LABELS)
    mlflow.xgboost.save_model(fitted, path, signature=infer_signature(TABLE, LABELS))
    return fitted


def _lightgbm(path: Path) -> Any:
    import lightgbm

    fitted = lightgbm.LGBMClassifier(n_estimators=3, n_jobs=1, verbose=-1).fit(TABLE, LABELS)
    mlflow.lightgbm.save_model(fitted, path, signature=infer_signature(TABLE, LABELS), serialization_format="pickle")
    return fitted


@pytest.mark.parametrize("save", [_xgboost, _lightgbm])
def test_boosters(save: Callable[[Path], Any], tmp_path: Path) -> None:
    fitted = save(tmp_path / "model")
    model = served(tmp_path / "model")
    assert [spec.name for spec in model.signature.inputs] == ["age", "income"]
    np.testing.assert_array_equal(predict(model, TABLE), fitted.predict(TABLE))


def test_a_booster_of_lightgbm_as_text(tmp_path: Path) -> None:
    import lightgbm

    booster = lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(TABLE, LABELS), 3)
    mlflow.lightgbm.save_model(booster, tmp_path / "model")
    np.testing.assert_allclose(predict(served(tmp_path / "model"), TABLE), booster.predict(TABLE))


def test_onnx(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Neg", ["rows"], ["predict"])],
        "g",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("predict", TensorProto.FLOAT, [None, 2])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    mlflow.onnx.save_model(made, tmp_path / "model")
    rows = TABLE.to_numpy(np.float32)
    np.testing.assert_array_equal(predict(served(tmp_path / "model"), rows), -rows)


def test_a_model_with_its_own_code_is_rejected(tmp_path: Path) -> None:
    class Custom(PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return model_input

    mlflow.pyfunc.save_model(tmp_path / "model", python_model=Custom())
    with pytest.raises(
        RefusedModel, match=r"flavour python_function, whose loader mlflow\.pyfunc\.model runs its own code"
    ):
        served(tmp_path / "model")
