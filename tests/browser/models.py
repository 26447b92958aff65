"""The models of the browser tests, each with a server."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from hack.quickstart import train
from mlmodel_server import package
from tests.integration.server.processes import Server, running
from tests.unit.server.models import SEED, iris, mixed

KEY = "the-key-of-the-tests"
EVIL = "<img src=x onerror=alert(1)>"
EVIL_CLASS = "</script><script>alert(1)</script>"
EVIL_TEXT = "\"'><b>bold</b>"


def hostile() -> tuple[Any, Any, Any]:
    """A classifier whose feature, category and class are HTML: model, X, y."""
    texts = np.array([EVIL_TEXT, "plain"] * 40, object)
    table = pd.DataFrame({EVIL: texts, "number": np.arange(80.0)})
    labels = np.where(texts == EVIL_TEXT, EVIL_CLASS, "harmless")
    columns = ColumnTransformer([("texts", OneHotEncoder(), [EVIL])], remainder="passthrough")
    return make_pipeline(columns, LogisticRegression(max_iter=500)).fit(table, labels), table, labels


def line() -> tuple[Any, Any, Any]:
    """A regression on one number: twice it."""
    X = pd.DataFrame({"x": np.arange(200.0)})
    return LinearRegression().fit(X, 2 * X["x"]), X, 2 * X["x"]


def wide() -> tuple[Any, Any, Any]:
    """A classifier on a matrix of 64 columns."""
    X = np.random.default_rng(SEED).normal(size=(120, 64))
    labels = np.where(X[:, 0] > 0, "up", "down")
    return LogisticRegression().fit(X, labels), X, labels


def wide_table() -> tuple[Any, Any, Any]:
    """The same with 60 named columns."""
    _, X, labels = wide()
    table = pd.DataFrame(X[:, :60], columns=[f"c{place}" for place in range(60)])
    return LogisticRegression().fit(table, labels), table, labels


def boosted() -> tuple[Any, Any, Any]:
    """A booster that can explain, on four numbers, with three classes."""
    import xgboost

    _, X, y = iris()
    return xgboost.XGBClassifier(n_estimators=5, n_jobs=1, random_state=SEED).fit(X, y), X, y


def plus_one() -> bytes:
    """An ONNX model of tensors, without classes or table rows: adds one to each of 2 x 2 numbers."""
    from onnx import TensorProto, helper

    square: list[str | int | None] = ["rows", 2, 2]
    graph = helper.make_graph(
        [helper.make_node("Add", ["square", "one"], ["sum"])],
        "plus_one",
        [helper.make_tensor_value_info("square", TensorProto.FLOAT, square)],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, square)],
        [helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


@contextlib.contextmanager
def served(name: str, folder: Path) -> Iterator[Server]:
    """Run a server of one of these models, of iris, or of the quickstart's tumour; ``keyed`` is iris with a key."""
    arguments: list[str | Path] = ["--uri", "builtin://iris"]
    if name == "tumour":
        train(folder / "tumour")
        arguments = ["--uri", "pvc://claim", "--path", folder / "tumour" / "v2"]
    elif name == "keyed":
        keys = folder / "keys"
        keys.write_text(f"tests: {hashlib.sha256(KEY.encode()).hexdigest()}\n")
        arguments += ["--api-keys", keys]
    elif name == "plus_one":
        (folder / "plus_one.onnx").write_bytes(plus_one())
        arguments = ["--uri", "pvc://claim", "--path", folder / "plus_one.onnx"]
    elif name != "iris":
        makers = (mixed, hostile, line, wide, wide_table, boosted)
        made = {maker.__name__: maker for maker in makers}[name]
        arguments = ["--uri", "pvc://claim", "--path", package.save(*made(), folder / name)]
    with running("--name", name, "--compile", "off", *arguments) as server:
        yield server


def post(server: Server, name: str, request: Any) -> Any:
    """Return the response to a request that the test sends without the page."""
    answer = server.send("POST", f"/v2/models/{name}/infer", json.dumps(request))
    assert answer.status == 200, answer.body
    return answer.json()


def example(server: Server, name: str) -> Any:
    """Return the example, which the page fills in."""
    return server.send("GET", f"/v2/models/{name}/example").json()


def stats(server: Server, name: str) -> Any:
    """Return the counts that the page draws."""
    return server.send("GET", f"/v2/models/{name}/stats").json()
