"""The census: each class has a row, and each answer is the library's; see ``hack/census``."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.utils import all_estimators

from hack.census import design, page, results
from hack.census.files import save
from hack.census.models import trained
from hack.census.run import judge_row
from hack.census.tables import SEED
from hack.census.verdicts import FAULTS, Case
from mlmodel_server.registry import entries
from mlmodel_server.registry.rows import ROWS

CASES = dict(design.chunks(design.pairwise()))


def test_every_estimator_of_scikit_learn_has_a_row() -> None:
    rows = {row.path.rpartition(".")[2] for row in ROWS if row.library == "sklearn"}
    assert {name for name, _ in all_estimators()} <= rows


def test_every_class_of_the_registry_that_predicts_has_a_row() -> None:
    paths = {_resolved(row.path) for row in ROWS}
    for entry in entries().values():
        cls = getattr(importlib.import_module(entry.module), entry.name, None)
        if (
            isinstance(cls, type)
            and issubclass(cls, BaseEstimator)
            and hasattr(cls, "predict")
            and entry.name[0] != "_"
        ):
            assert cls in paths, f"{entry.module}.{entry.name} has no row in registry/rows.py"


def _resolved(path: str) -> object:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_the_committed_verdicts_are_of_the_installed_versions() -> None:
    assert results.read()[1] == results.versions(), "run make census"


def test_the_committed_verdicts_have_no_fault() -> None:
    found, _ = results.read()
    assert {case: verdict for case, verdict in found.items() if verdict.outcome in FAULTS} == {}


def test_nineteen_of_twenty_classes_of_scikit_learn_are_served() -> None:
    served, refused = page.served_classes(results.read()[0])
    assert len(served) >= 0.95 * (len(served) + len(refused)), refused


@pytest.mark.parametrize("row", CASES)
def test_served_answers_are_the_library_s(row: str) -> None:
    print(f"seed {SEED}")
    committed, _ = results.read()
    fresh = {case: results.shortened(verdict) for case, verdict in judge_row(CASES[row]).items()}
    assert {case: verdict for case, verdict in fresh.items() if verdict.outcome in FAULTS} == {}
    assert fresh == {case: committed.get(case) for case in fresh}, "run make census, and review the difference"


@pytest.mark.parametrize(
    "case",
    [
        Case("LogisticRegression", "named", "joblib", False, True),
        Case("RandomForestClassifier", "float64", "skops", False, False),
        Case("XGBClassifier (early stopping)", "float64", "ubj", False, False),
        Case("lightgbm booster (binary)", "integers", "text", False, False),
        Case("HistGradientBoostingRegressor", "close", "joblib", True, True),
    ],
    ids=str,
)
def test_a_server_answers_as_the_census(case: Case, tmp_path: Path) -> None:
    model = trained(case.row, case.kind)
    saved = save(model, case.format, case.packaged, case.compile, tmp_path)
    rows = model.data.asked
    options = [] if case.compile else ["--compile", "off"]
    command = [sys.executable, "-m", "mlmodel_server.cli", "serve", str(saved.path), "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            address = _address(server)
            name = json.loads(_get(f"{address}/v1/models"))["models"][0]
            inputs = json.loads(_get(f"{address}/v2/models/{name}"))["inputs"]
            values = np.asarray(rows, np.float64)
            columns = values.T if len(inputs) > 1 else [values]
            tensors = [
                {"name": spec["name"], "datatype": "FP64", "shape": column.shape, "data": column.tolist()}
                for spec, column in zip(inputs, columns, strict=True)
            ]
            body = json.dumps({"inputs": tensors, "outputs": [{"name": "predict"}]}).encode()
            answer = json.loads(_get(f"{address}/v2/models/{name}/infer", body))["outputs"][0]["data"]
        finally:
            server.terminate()
    expected = saved.answer(rows, "predict")
    if expected.dtype.kind == "f":
        np.testing.assert_allclose(answer, expected, rtol=1e-6)
    else:
        assert answer == expected.tolist()


def _address(server: subprocess.Popen[str]) -> str:
    assert server.stderr is not None
    lines = []
    for line in server.stderr:
        lines.append(line)
        if "msg=ready" in line or 'msg="ready"' in line:
            port = line.partition("port=")[2].split()[0]
            return f"http://127.0.0.1:{port}"
    raise AssertionError(f"the server exited: {lines}")


def _get(url: str, body: bytes | None = None) -> bytes:
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=120) as answer:
        return bytes(answer.read())
