"""The choke point: common estimators come through, programs do not."""

from __future__ import annotations

import importlib
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.datasets import make_classification
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import SelectKBest
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier
from skops import io as skops

from mlmodel_server.errors import RefusedModel
from mlmodel_server.loading import allowlist, trust
from mlmodel_server.loading.trust import open_artefact

from .models import SEED, joblib_bytes

FEATURES, LABELS = make_classification(60, 6, random_state=SEED)

COMMON: list[Any] = [
    AdaBoostClassifier(n_estimators=3, random_state=SEED),
    BaggingClassifier(n_estimators=3, random_state=SEED),
    CalibratedClassifierCV(LinearSVC(), cv=2),
    DecisionTreeClassifier(random_state=SEED),
    ExtraTreesClassifier(3, random_state=SEED),
    GaussianNB(),
    GaussianProcessClassifier(),
    GradientBoostingClassifier(n_estimators=3, random_state=SEED),
    GridSearchCV(SVC(), {"C": [1, 2]}, cv=2),
    HistGradientBoostingClassifier(max_iter=3),
    IsolationForest(n_estimators=3, random_state=SEED),
    KMeans(2, n_init=1, random_state=SEED),
    KNeighborsClassifier(algorithm="ball_tree"),
    KNeighborsClassifier(algorithm="kd_tree"),
    LinearDiscriminantAnalysis(),
    LinearRegression(),
    MLPClassifier((4,), max_iter=500, early_stopping=True, random_state=SEED),
    RandomForestClassifier(3, random_state=SEED),
    Ridge(),
    SGDClassifier(random_state=SEED),
    StackingClassifier([("a", GaussianNB()), ("b", LogisticRegression())], cv=2),
    VotingClassifier([("a", GaussianNB()), ("b", LogisticRegression())]),
    make_pipeline(StandardScaler(), SelectKBest(k=3), PCA(2), SVC()),
    make_pipeline(FunctionTransformer(np.sinh), LogisticRegression()),
]


@pytest.mark.parametrize("estimator", COMMON, ids=lambda estimator: type(estimator).__name__)
def test_a_common_estimator_loads_from_joblib_and_answers_the_same(estimator: Any) -> None:
    fitted = estimator.fit(FEATURES, LABELS)
    opened = open_artefact(joblib_bytes(fitted), "model.joblib")
    np.testing.assert_array_equal(opened.predict(FEATURES), fitted.predict(FEATURES))


@pytest.mark.parametrize("estimator", COMMON, ids=lambda estimator: type(estimator).__name__)
def test_a_common_estimator_loads_from_skops_and_answers_the_same(estimator: Any) -> None:
    fitted = estimator.fit(FEATURES, LABELS)
    opened = open_artefact(skops.dumps(fitted), "model.skops")
    np.testing.assert_array_equal(opened.predict(FEATURES), fitted.predict(FEATURES))


def test_a_text_model_loads() -> None:
    texts, labels = ["good day", "bad night", "good night", "bad day"], [1, 0, 1, 0]
    fitted = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, labels)
    assert open_artefact(joblib_bytes(fitted), "model.joblib").predict(texts).tolist() == labels


@pytest.mark.parametrize("compress", [("zlib", 3), ("gzip", 3), ("bz2", 3), ("lzma", 3), ("xz", 3)])
def test_compressed_joblib_loads(compress: tuple[str, int]) -> None:
    fitted = LinearRegression().fit(FEATURES, LABELS)
    opened = open_artefact(joblib_bytes(fitted, compress), "model.joblib")
    np.testing.assert_array_equal(opened.coef_, fitted.coef_)


class Program:
    """Pickles as a call of ``function`` with ``arguments``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def touch(path: Path) -> Program:
    return Program(os.system, f"touch {path}")


def with_program(program: Program) -> Any:
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(FEATURES, LABELS)
    fitted.steps[0][1].note = program
    return fitted


HIDDEN = {
    "bare": lambda program: joblib_bytes(program),
    "in a pipeline": lambda program: joblib_bytes(with_program(program)),
    "in an object array": lambda program: joblib_bytes(np.array([program, 1], dtype=object)),
    "in an object array of a pipeline": lambda program: joblib_bytes(with_program(np.array([[program]], dtype=object))),  # type: ignore[arg-type]
    "zlib": lambda program: joblib_bytes(with_program(program), ("zlib", 3)),
    "xz": lambda program: joblib_bytes(with_program(program), ("xz", 3)),
    "gzip": lambda program: joblib_bytes(with_program(program), ("gzip", 3)),
    "plain pickle": lambda program: pickle.dumps(program),
    "protocol 0": lambda program: pickle.dumps(program, protocol=0),
}


@pytest.mark.parametrize("where", list(HIDDEN))
def test_a_program_is_refused_wherever_it_hides(where: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with pytest.raises(RefusedModel, match=r"refused posix\.system in model\.joblib"):
        open_artefact(HIDDEN[where](touch(mark)), "model.joblib")
    assert not mark.exists()


def test_gadgets_in_trusted_packages_are_refused(tmp_path: Path) -> None:
    inner = tmp_path / "inner.joblib"
    inner.write_bytes(joblib_bytes(touch(tmp_path / "ran")))
    gadgets = [
        (joblib.load, (str(inner),)),
        (importlib.import_module, ("os",)),
        (eval, ("1",)),
        (getattr, (1, "real")),
        (np.load, (str(inner), None, True)),
        (np.fromfile, (str(inner),)),
    ]
    for module, name in (
        ("numpy.f2py.crackfortran", "myeval"),
        ("sklearn.utils._testing", "assert_run_python_script_without_output"),
    ):
        gadgets.append((getattr(importlib.import_module(module), name), ("1",)))
    for function, arguments in gadgets:
        with pytest.raises(RefusedModel, match="refused"):
            open_artefact(joblib_bytes(Program(function, *arguments)), "model.joblib")
    assert not (tmp_path / "ran").exists()


def test_a_dotted_name_reaches_nothing() -> None:
    stream = b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93."
    with pytest.raises(RefusedModel, match=r"refused numpy\.ndarray\.tofile"):
        open_artefact(stream, "model.joblib")


def test_a_function_of_the_training_script_is_named_with_the_file() -> None:
    fitted = make_pipeline(FunctionTransformer(helper), LogisticRegression()).fit(FEATURES, LABELS)
    with pytest.raises(RefusedModel, match=rf"refused {helper.__module__}\.helper in fraud\.joblib"):
        open_artefact(joblib_bytes(fitted), "fraud.joblib")
    with pytest.raises(RefusedModel, match=r"refused .*helper in fraud\.skops"):
        open_artefact(skops.dumps(fitted), "fraud.skops")


def helper(X: Any) -> Any:
    return X


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"hello", b"PK\x03\x04 not a zip", b"\x78\x9c broken", b"\x80\x04\x95\xff"]
)
def test_a_damaged_file_is_refused_in_one_sentence(data: bytes) -> None:
    with pytest.raises(
        RefusedModel, match=r"^model (cannot be read \(.*\)|is a damaged zip file): .*save it again"
    ) as caught:
        open_artefact(data, "model")
    assert "\n" not in str(caught.value)


def test_a_bomb_is_stopped_before_it_unpacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "MAX_UNPACKED", 100_000)
    for data in (joblib_bytes(np.zeros(1_000_000), 9), joblib_bytes(b"0" * 1_000_000, ("xz", 9))):
        with pytest.raises(RefusedModel, match="unpacks to more than the limit"):
            open_artefact(data, "model.joblib")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", b" " * 1_000_000)
    with pytest.raises(RefusedModel, match="unpacks to more than the limit"):
        open_artefact(buffer.getvalue(), "model.skops")


def test_the_committed_list_is_that_of_the_installed_version() -> None:
    version = allowlist.installed_version()
    listed = {pair: kind for pair, (kind, versions) in allowlist.read().items() if version in versions}
    assert listed == allowlist.generate(), "run: python -m mlmodel_server.loading.allowlist"


def test_no_name_on_the_list_can_start_a_program() -> None:
    modules = {module for module, _ in allowlist.read()}
    assert not modules & {"os", "posix", "sys", "subprocess", "importlib", "functools", "operator", "types", "codecs"}
    builtins = {name for module, name in allowlist.read() if module == "builtins"}
    assert not builtins & {
        "eval",
        "exec",
        "getattr",
        "setattr",
        "compile",
        "open",
        "__import__",
        "map",
        "apply",
        "type",
    }
    assert all(
        module.split(".")[0]
        in {"_codecs", "builtins", "collections", "joblib", "lightgbm", "numpy", "scipy", "sklearn", "xgboost"}
        for module in modules
    )
