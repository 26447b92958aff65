"""Trust: common estimators load, programs do not."""

from __future__ import annotations

import functools
import io
import json
import lzma
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import sklearn
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
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.feature_selection import SelectKBest
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier
from skops import io as skops

from mlmodel_server import registry
from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.opened import Opened
from mlmodel_server.loading import trust, unpickle
from mlmodel_server.loading.load import load
from mlmodel_server.loading.signing import SIGNATURE, sign
from mlmodel_server.loading.sources import Memory
from mlmodel_server.loading.trust import open_artefact
from mlmodel_server.startup.choose import choose
from tests.unit.server.loading import malicious
from tests.unit.server.models import SEED, joblib_bytes

FEATURES, LABELS = make_classification(60, 6, random_state=SEED)

COMMON: list[Any] = [
    AdaBoostClassifier(n_estimators=3, random_state=SEED),
    BaggingClassifier(n_estimators=3, random_state=SEED),
    BaggingClassifier(make_pipeline(StandardScaler(), SVC()), n_estimators=3, max_features=0.5, random_state=SEED),
    CalibratedClassifierCV(LinearSVC(), cv=2),
    CalibratedClassifierCV(LinearSVC(), method="isotonic", cv=2),
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
def test_a_common_estimator_loads_from_joblib_and_predicts_the_same(estimator: Any) -> None:
    fitted = estimator.fit(FEATURES, LABELS)
    estimator = open_artefact(joblib_bytes(fitted), "model.joblib")
    np.testing.assert_array_equal(estimator.predict(FEATURES), fitted.predict(FEATURES))


@pytest.mark.parametrize("estimator", COMMON, ids=lambda estimator: type(estimator).__name__)
def test_a_common_estimator_loads_from_skops_and_predicts_the_same(estimator: Any) -> None:
    fitted = estimator.fit(FEATURES, LABELS)
    estimator = open_artefact(skops.dumps(fitted), "model.skops")
    np.testing.assert_array_equal(estimator.predict(FEATURES), fitted.predict(FEATURES))


def test_a_text_model_loads() -> None:
    texts, labels = ["good day", "bad night", "good night", "bad day"], [1, 0, 1, 0]
    fitted = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, labels)
    assert open_artefact(joblib_bytes(fitted), "model.joblib").predict(texts).tolist() == labels


@pytest.mark.parametrize("compress", [("zlib", 3), ("gzip", 3), ("bz2", 3), ("lzma", 3), ("xz", 3)])
def test_compressed_joblib_loads(compress: tuple[str, int]) -> None:
    fitted = LinearRegression().fit(FEATURES, LABELS)
    estimator = open_artefact(joblib_bytes(fitted, compress), "model.joblib")
    np.testing.assert_array_equal(estimator.coef_, fitted.coef_)


def opened(files: dict[str, bytes], **options: Any) -> Opened:
    """Return the model in ``files``, of which the first is the entry file."""
    return load(Memory(files, next(iter(files))), **options).opened


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("artefact", malicious.ALL, ids=lambda artefact: artefact.name)
def test_a_malicious_file_is_rejected_for_the_right_reason(artefact: malicious.Malicious, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    files = artefact.make(marker)
    assert not marker.exists(), "the payload must not run while the file is made"
    with pytest.raises(RefusedModel, match=artefact.reason) as caught:
        opened(files)
    assert not marker.exists()
    assert "\n" not in str(caught.value)


def test_the_payloads_run_with_joblib(tmp_path: Path) -> None:
    for artefact in malicious.ALL[:10]:
        marker = tmp_path / artefact.name.replace(" ", "-")
        (data,) = artefact.make(marker).values()
        joblib.load(io.BytesIO(data))
        assert marker.exists(), artefact.name


def test_the_error_names_a_function_of_the_training_script_and_the_file() -> None:
    fitted = make_pipeline(FunctionTransformer(helper), LogisticRegression()).fit(FEATURES, LABELS)
    with pytest.raises(RefusedModel, match=rf"refused {helper.__module__}\.helper in fraud\.joblib"):
        open_artefact(joblib_bytes(fitted), "fraud.joblib")
    with pytest.raises(RefusedModel, match=r"refused .*helper in fraud\.skops"):
        open_artefact(skops.dumps(fitted), "fraud.skops")


def helper(X: Any) -> Any:
    return X


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"hello", b"PK\x03\x04 not a zip", b"\x78\x9c broken", b"\x80\x04\x95\xff"]
)
def test_a_damaged_file_is_rejected_in_one_sentence(data: bytes) -> None:
    with pytest.raises(
        RefusedModel,
        match=r"^model (cannot be read \(.*\)|is a damaged zip file|is empty|is not a model file): (copy|give)",
    ) as caught:
        open_artefact(data, "model")
    assert "\n" not in str(caught.value)


@pytest.mark.attack(held=True)
def test_a_bomb_is_rejected_before_it_unpacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlmodel_server.formats.opened._MAX_UNPACKED", 100_000)
    for data in (joblib_bytes(np.zeros(1_000_000), 9), joblib_bytes(b"0" * 1_000_000, ("xz", 9))):
        with pytest.raises(RefusedModel, match="unpacks to more than the limit"):
            open_artefact(data, "model.joblib")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", b" " * 1_000_000)
    with pytest.raises(RefusedModel, match="unpacks to more than the limit"):
        open_artefact(buffer.getvalue(), "model.skops")


@pytest.mark.attack(held=True)
def test_a_small_file_does_not_unpack_to_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlmodel_server.formats.opened._UNPACKED", 1 << 20)
    zeros = np.zeros(1 << 18)
    with pytest.raises(RefusedModel, match="for a file of its size, so compress it less"):
        open_artefact(joblib_bytes(zeros, 9), "model.joblib")
    assert len(open_artefact(joblib_bytes(zeros, 0), "model.joblib")) == len(zeros)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(FEATURES, LABELS)
    pipeline[0].more = [np.zeros(1 << 14)]
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(skops.dumps(pipeline))) as source, zipfile.ZipFile(buffer, "w") as target:
        schema = json.loads(source.read("schema.json"))
        for node in trust._nodes(schema):
            if node["__loader__"] == "ListNode" and len(node["content"]) == 1:
                node["content"] *= 1000  # each reads the same file
        for name in source.namelist():
            target.writestr(name, json.dumps(schema) if name == "schema.json" else source.read(name))
    with pytest.raises(RefusedModel, match="for a file of its size"):
        open_artefact(buffer.getvalue(), "model.skops")


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    ("pattern", "allowed"),
    [(r"(?u)\b\w\w+\b", True), (r"\w+", True), (r"\b[a-zA-Z]{3,}\b", True), (r"[^\W\d_]+|\d+", True),
     (r"(?u)\b(\w+)\b", True), ("(a+)+b", False), (r"(\w|a)*b", False), (r"\w+\w+\w+\w+b", False)],
)  # fmt: skip
def test_a_text_cannot_take_exponential_time(pattern: str, allowed: bool) -> None:
    fitted = TfidfVectorizer().fit(["a good day", "a bad day"])
    fitted.token_pattern = pattern
    if allowed:
        assert open_artefact(joblib_bytes(fitted), "model.joblib").token_pattern == pattern
    else:
        with pytest.raises(RefusedModel, match="repeat only the last character of a token"):
            open_artefact(joblib_bytes(fitted), "model.joblib")


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    ("step", "changes"),
    [
        (HashingVectorizer(), {"n_features": 1 << 30}),
        (HashingVectorizer(), {"ngram_range": (1, 1 << 20)}),
        (PolynomialFeatures().fit(np.zeros((1, 6))),
         {"_max_degree": 34, "_n_out_full": 3838380, "n_output_features_": 3838380}),
    ],
)  # fmt: skip
def test_a_number_in_a_file_does_not_take_much_memory(step: Any, changes: dict[str, Any]) -> None:
    vars(step).update(changes)
    with pytest.raises(RefusedModel, match="it has a number out of range"):
        open_artefact(joblib_bytes(step), "model.joblib")


@pytest.mark.attack(held=True)
def test_a_bomb_of_opcodes_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpickle._Budget, "left", 10_000)
    with pytest.raises(RefusedModel, match="unpacks to more than the limit"):
        open_artefact(lzma.compress(b"\x80\x04" + b"}" * 1_000_000), "model.joblib")


@pytest.mark.parametrize("function", [np.tanh, np.nan_to_num, np.round])
def test_functions_of_numpy_may_be_part_of_a_model(function: Any) -> None:
    fitted = make_pipeline(FunctionTransformer(function), LogisticRegression()).fit(FEATURES, LABELS)
    estimator = open_artefact(joblib_bytes(fitted), "model.joblib")
    np.testing.assert_array_equal(estimator.predict(FEATURES), fitted.predict(FEATURES))


@pytest.mark.attack(held=True)
def test_a_file_cannot_change_numpy() -> None:
    """Its data types are shared by the whole process."""
    stream = malicious.stream(
        *(malicious.Global("numpy", "dtype"), ("f8", False, False), pickle.REDUCE),
        *((3, ">", None, None, None, -1, -1, 0), pickle.BUILD),
    )
    assert open_artefact(stream, "model.joblib").byteorder == ">"
    assert np.dtype("f8").isnative


@pytest.fixture(scope="module")
def keys() -> tuple[bytes, bytes]:
    """A private key and its public key, as PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    return (
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    )


def custom_files() -> dict[str, bytes]:
    """Return a model with a function of its author, which ``strict`` rejects."""
    fitted = make_pipeline(FunctionTransformer(helper), LogisticRegression()).fit(FEATURES, LABELS)
    return {"model.joblib": joblib_bytes(fitted)}


def test_a_signed_model_may_contain_anything(keys: tuple[bytes, bytes]) -> None:
    private, public = keys
    files = custom_files()
    with pytest.raises(RefusedModel, match=r"helper in model\.joblib"):
        opened(files)
    signed = {**files, SIGNATURE: sign(files, private, "own")}
    loaded = load(Memory(signed, "model.joblib"), trust="signed", keys=[public], name="own")
    assert loaded.signed_by
    assert loaded.opened.functions(FEATURES, ["predict"])[0].shape == LABELS.shape


@pytest.mark.attack(held=True)
def test_a_signature_covers_every_file(keys: tuple[bytes, bytes]) -> None:
    private, public = keys
    files = custom_files()
    signature = sign(files, private, "own")
    for changed in (
        {"model.joblib": files["model.joblib"] + b" "},
        {**files, "more.txt": b""},
    ):
        with pytest.raises(RefusedModel, match="the signature does not match the files"):
            opened({**changed, SIGNATURE: signature}, trust="signed", keys=[public], name="own")


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trust": "signed", "keys": [b"key"]}, "the model is not signed"),
        ({"trust": "signed"}, "the server has no public key"),
        ({"trust": "unsafe"}, "or add --allow-unsafe"),
        ({"trust": "all"}, "use strict, signed, unsafe"),
    ],
)
def test_a_level_of_trust_requires_its_condition(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RefusedModel, match=words):
        opened(custom_files(), **options)


def test_unsafe_opens_anything_where_it_is_allowed() -> None:
    model = opened(custom_files(), trust="unsafe", allow_unsafe=True)
    assert model.functions(FEATURES, ["predict"])[0].shape == LABELS.shape


def test_every_estimator_of_the_installed_version_has_an_entry() -> None:
    from sklearn.utils import all_estimators

    estimators = {f"{cls.__module__}.{cls.__qualname__}" for _, cls in all_estimators()}
    assert estimators - set(registry.entries()) == set()


@pytest.mark.attack(held=True)
def test_no_name_on_the_list_can_start_a_program() -> None:
    kinds = registry.kinds()
    modules = {module for module, _ in kinds}
    assert not modules & {"os", "posix", "sys", "subprocess", "importlib", "operator", "types", "codecs"}
    # The constructor of the one partial that may exist checks its function, and the audit its arguments.
    assert {name: kind for (module, name), kind in kinds.items() if module == "functools"} == {"partial": "name"}
    builtins = {name for module, name in kinds if module == "builtins"}
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
        in {
            "_codecs",
            "builtins",
            "collections",
            "functools",
            "joblib",
            "lightgbm",
            "numpy",
            "scipy",
            "sklearn",
            "xgboost",
        }
        for module in modules
    )


def _histogram(change: Any) -> Any:
    table = np.c_[np.arange(60) % 3, FEATURES[:, 0]]
    fitted = HistGradientBoostingClassifier(max_iter=2, categorical_features=[0]).fit(table, LABELS)
    step = fitted._preprocessor.named_transformers_["numerical"]
    step.func = change(step.func)
    return fitted


@pytest.mark.parametrize(
    "change",
    [
        lambda func: functools.partial(func.func, dtype=None, ensure_all_finite=False),
        lambda func: functools.partial(func.func, [[1.0]], **func.keywords),
        lambda func: functools.partial(func.func, **func.keywords, estimator="x"),
        lambda func: functools.partial(np.mean, **func.keywords),
    ],
)
@pytest.mark.parametrize("form", ["joblib", "skops"])
def test_the_one_partial_has_one_function_and_the_arguments_of_scikit_learn(change: Any, form: str) -> None:
    for fitted, sound in ((_histogram(lambda func: func), True), (_histogram(change), False)):
        data = joblib_bytes(fitted) if form == "joblib" else skops.dumps(fitted)
        if sound:
            open_artefact(data, "model")
        else:
            with pytest.raises(RefusedModel):
                open_artefact(data, "model")


@pytest.mark.parametrize("compress", [0, 3])
def test_a_file_of_another_version_of_scikit_learn_that_cannot_be_read_says_so(compress: int) -> None:
    model = LogisticRegression().fit(np.eye(2), [0, 1])
    buffer = io.BytesIO()
    joblib.dump(model, buffer, compress=0)
    data = buffer.getvalue().replace(sklearn.__version__.encode(), b"0.1.1"[: len(sklearn.__version__)])
    moved = data.replace(b"sklearn.linear_model._logistic", b"sklearn.linear_model.__older__")
    assert moved != data
    content = zlib.compress(moved) if compress else moved
    with pytest.raises(
        RefusedModel, match=r"it was saved with scikit-learn 0\.1\.1, and this server has \d+\.\d"
    ) as caught:
        open_artefact(content, "model.joblib")
    assert "train the model again with that version" in str(caught.value)
    with pytest.raises(RefusedModel) as same:
        open_artefact(
            buffer.getvalue().replace(b"sklearn.linear_model._logistic", b"sklearn.linear_model.__other__"), "m"
        )
    assert "it was saved with" not in str(same.value)


def test_a_model_of_another_version_that_fails_its_self_test_says_so() -> None:
    model = LogisticRegression().fit(np.eye(2), [0, 1])
    del model.intercept_
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    older = buffer.getvalue().replace(sklearn.__version__.encode(), b"0.1.1"[: len(sklearn.__version__)])
    loaded = load(Memory({"model.joblib": older}, "model.joblib"))
    with pytest.raises(RefusedModel, match=r"the model was saved with scikit-learn 0\.1\.1, and this server has"):
        choose(loaded, "off")
