"""Special values in every transport, alone and beside other clients' rows: the library's answer, or a refusal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler

from mlmodel_server import manifest, package
from mlmodel_server.engine import selftest
from mlmodel_server.engine.batching import joined
from mlmodel_server.engine.model import Model, model_of
from mlmodel_server.errors import ModelFailure, RefusedModel, RequestError, UsageError
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Memory
from mlmodel_server.manifest import MANIFEST
from mlmodel_server.package.write import LeftOut
from mlmodel_server.protocol import binary, invocations, rows, v1, v2
from mlmodel_server.rpc import codec
from mlmodel_server.rpc.proto import open_inference_pb2 as pb
from mlmodel_server.tensors import DTYPES, Array, InferRequest, InferResponse, Tensor, TensorSpec, named
from tests.unit.server.models import SEED, joblib_bytes
from tests.unit.server.own_modules import imported

pytestmark = pytest.mark.models

RANDOM = np.random.default_rng(SEED)
ROWS = 160
NUMBERS = (None, 0.0, -0.0, 5e-324, 1e30, -1e30)
TEXTS = ("Oslo", "Zürich", "", " Oslo", "oslo", "Oslo\0", "Zu\u0308rich", "Atlantis", "🙂", "NA", None)
STEPS = (500, 7, -1, 0, 8, 2**53 + 1, None)

TABLE = pd.DataFrame(
    {
        "amount": RANDOM.normal(size=ROWS),
        "city": RANDOM.choice(np.array(["Oslo", "Zürich", "", "Oslo\0", "NA"], object), ROWS),
        "step": RANDOM.choice([500, 7, 0], ROWS),
        "member": RANDOM.random(ROWS) > 0.5,
    }
)
LABELS = np.where((TABLE.amount > 0) ^ (TABLE.city == "Oslo") ^ (TABLE.step == 7), "yes", "no")

Row = dict[str, Any]


def special(frame: pd.DataFrame) -> Iterator[Row]:
    """Rows of which one value is special, and each is a value that a request can have."""
    first: Row = {name: frame[name].iloc[0] for name in frame}
    first = {name: value.item() if isinstance(value, np.generic) else value for name, value in first.items()}
    yield first
    for name, values in (("amount", NUMBERS), ("city", TEXTS), ("step", STEPS)):
        if name in frame:
            yield from (first | {name: value} for value in values)


def frame_of(row: Row, like: pd.DataFrame) -> pd.DataFrame:
    """The row as a user of the library has it: with the dtypes of the training, where they can hold it."""
    found = {}
    for name, dtype in like.dtypes.items():
        value = row[str(name)]
        if isinstance(dtype, pd.CategoricalDtype):
            others = [] if value is None or value in list(dtype.categories) else [value]
            found[name] = pd.Series(pd.Categorical([value], categories=[*dtype.categories, *others]))
        elif value is None and dtype.kind in "iuf":
            found[name] = pd.Series([np.nan])
        else:
            found[name] = pd.Series([value], dtype=dtype)
    return pd.DataFrame(found)


def tensors(row: Row, inputs: tuple[TensorSpec, ...]) -> Iterator[tuple[Tensor, bool]]:
    """The value of each input as a tensor of one element, and whether it is missing."""
    for spec in inputs:
        value, datatype = row[spec.name], spec.datatype
        if datatype.startswith("FP") and isinstance(value, int):
            datatype = "BOOL" if isinstance(value, bool) else "INT64"
        blank: Any = {"BYTES": "", "BOOL": False}.get(datatype, 0)
        yield (
            Tensor(spec.name, datatype, np.array([blank if value is None else value], DTYPES[datatype])),
            value is None,
        )


def in_json(row: Row, inputs: tuple[TensorSpec, ...]) -> InferRequest:
    sent = [{**v2.tensor_json(t), **({"data": [None]} if missing else {})} for t, missing in tensors(row, inputs)]
    return v2.decode(json.dumps({"inputs": sent}).encode())


def in_binary(row: Row, inputs: tuple[TensorSpec, ...]) -> InferRequest:
    heads, raws = [], []
    for tensor, missing in tensors(row, inputs):
        raws.append(binary.to_raw(tensor))
        parameters = {"binary_data_size": len(raws[-1])} | ({"missing": 0} if missing else {})
        heads.append({"name": tensor.name, "datatype": tensor.datatype, "shape": [1], "parameters": parameters})
    head = json.dumps({"inputs": heads}).encode()
    return v2.decode(head + b"".join(raws), len(head))


def in_grpc(row: Row, inputs: tuple[TensorSpec, ...]) -> InferRequest:
    message = pb.ModelInferRequest()
    for tensor, missing in tensors(row, inputs):
        sent = message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=[1])
        if missing:
            sent.parameters["missing"].string_param = "0"
        message.raw_input_contents.append(binary.to_raw(tensor))
    return codec.decode(pb.ModelInferRequest.FromString(message.SerializeToString()))


def in_csv(row: Row, inputs: tuple[TensorSpec, ...]) -> InferRequest | None:
    """None for a text that pandas.read_csv, and so the server, reads as missing."""
    if any(value in invocations.MISSING for value in row.values() if isinstance(value, str)):
        return None
    text = io.StringIO()
    csv.writer(text).writerows([list(row), ["" if value is None else value for value in row.values()]])
    return invocations.decode(text.getvalue().encode(), b"text/csv", inputs)


TRANSPORTS: dict[str, Callable[[Row, tuple[TensorSpec, ...]], InferRequest | None]] = {
    "v2": in_json,
    "binary": in_binary,
    "gRPC": in_grpc,
    "v1": lambda row, inputs: v1.decode(json.dumps({"instances": [row]}).encode(), inputs),
    "rows": lambda row, inputs: rows.decode(json.dumps(row).encode(), inputs),
    "csv": in_csv,
}


def served(model: Any, X: Any, y: Any, *, bare: bool = False) -> Model:
    if bare:
        return model_of(load(Memory({"model": joblib_bytes(model)}, "model")).opened, None)
    files = package.build(model, X, y, compile=False)
    return model_of(load(Memory(files)).opened, manifest.parse(files[MANIFEST]))


def one_hot(**options: Any) -> Any:
    columns = [("texts", OneHotEncoder(**options), ["city", "step"]), ("numbers", SimpleImputer(), ["amount"])]
    return make_pipeline(ColumnTransformer(columns, remainder="passthrough"), LogisticRegression())


def ordinal() -> Any:
    options = {"handle_unknown": "use_encoded_value", "unknown_value": -1, "encoded_missing_value": -2}
    columns = [("codes", OrdinalEncoder(**options), ["city", "step"])]
    transformer = ColumnTransformer(columns, remainder="passthrough").set_output(transform="pandas")
    return make_pipeline(transformer, HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=5))


def typed(**dtypes: Any) -> pd.DataFrame:
    return TABLE.astype(dtypes)


ASCII = TABLE.assign(city=TABLE.city.replace({"Zürich": "Zurich", "Oslo\0": "oslo"})).astype({"city": "category"})
WORDS, CATEGORIES = typed(city="str"), typed(city="category", step="category")

MODELS: dict[str, tuple[Callable[[], Any], pd.DataFrame]] = {
    "one-hot": (lambda: one_hot(handle_unknown="ignore"), WORDS),
    "one-hot, unknown refused": (one_hot, WORDS),
    "one-hot, objects": (lambda: one_hot(handle_unknown="ignore"), typed(city=object)),
    "one-hot, categories": (lambda: one_hot(handle_unknown="infrequent_if_exist", min_frequency=40), CATEGORIES),
    "ordinal": (ordinal, WORDS),
    "histograms": (lambda: HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=5), CATEGORIES),
    "LightGBM": (
        lambda: lightgbm.LGBMClassifier(n_estimators=5, min_child_samples=5, n_jobs=1, verbose=-1),
        CATEGORIES,
    ),
    "XGBoost": (lambda: xgboost.XGBClassifier(n_estimators=5, n_jobs=1, enable_categorical=True), ASCII),
    "LightGBM in a pipeline": (
        lambda: make_pipeline(
            ColumnTransformer([("scaled", StandardScaler(), ["amount"])], remainder="passthrough").set_output(
                transform="pandas"
            ),
            lightgbm.LGBMClassifier(n_estimators=5, min_child_samples=5, n_jobs=1, verbose=-1),
        ),
        CATEGORIES,
    ),
}


def expected(model: Any, frame: pd.DataFrame, output: str) -> Array | None:
    """The answer of the library; None if it raises."""
    try:
        return np.asarray(getattr(model, output)(frame))
    except Exception:  # anything that a library raises
        return None


def assert_same(library: Array, found: Array) -> None:
    if library.dtype.kind == "f":  # but for what the layout of a table and the number of its rows round
        np.testing.assert_allclose(found, library, rtol=1e-6 if library.dtype == np.float32 else 1e-12)
    else:
        assert found.tolist() == library.tolist()


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("name", MODELS)
def test_special_values_get_the_answer_of_the_library_or_a_refusal_in_every_transport(name: str) -> None:
    make, X = MODELS[name]
    y = (LABELS == "yes").astype(int) if name == "XGBoost" else LABELS
    model = make().fit(X, y)
    answering, answered = served(model, X, y), 0
    batches: dict[Any, list[tuple[Any, Array]]] = {}
    for row, output in product(special(X), ("predict", "predict_proba")):
        library = expected(model, frame_of(row, X), output)
        for transport, sent in TRANSPORTS.items():
            try:
                request = sent(row, answering.signature.inputs)
                if request is None:
                    continue
                table = answering.table(request.inputs)
                (found,) = answering.predict(table, (output,))
            except RequestError:
                continue
            except ModelFailure:
                assert library is None, (row, transport)
                continue
            assert library is not None, (row, transport)
            assert_same(library, found)
            answered += 1
            batches.setdefault((output, answering.kind_of(table, (output,))), []).append((table, library))
    assert answered > 150
    assert max(map(len, batches.values())) > 30
    for (output, _), batch in batches.items():
        (found,) = answering.predict(joined([table for table, _ in batch]), (output,))
        assert_same(np.concatenate([library for _, library in batch]), found)


@pytest.mark.attack
@pytest.mark.parametrize("bare", [True, False], ids=["file", "package"])
def test_two_integers_never_become_one(bare: bool) -> None:
    ids = np.c_[np.where(RANDOM.random(ROWS) > 0.5, 2**53, 7), RANDOM.integers(0, 3, ROWS)]
    model = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression()).fit(ids, ids[:, 0] == 7)
    answering = served(model, ids, ids[:, 0] == 7, bare=bare)
    other = np.array([[2**53 + 1, 1]])
    assert (model.predict_proba(other) != model.predict_proba(other - [[1, 0]])).all()
    sent = [Tensor("input-0", "INT64", other)]
    with pytest.raises(RequestError, match="has an integer beyond 2\\^53"):
        answering.predict(answering.table(sent), ("predict",))
    with pytest.raises(RequestError, match="has an integer beyond 2\\^53"):
        rows.decode(json.dumps(other.tolist()).encode(), answering.signature.inputs)


SINGLE = pd.DataFrame(RANDOM.normal(size=(ROWS, 3)) * [1, 3, 100], columns=list("abc")).astype(np.float32)
MOODS = np.where(SINGLE.a > 0, "good", "bad")


def test_columns_of_single_precision_are_computed_in_single_precision() -> None:
    X = SINGLE.assign(city=WORDS.city)
    columns = [("numbers", StandardScaler(), list("abc")), ("texts", OneHotEncoder(), ["city"])]
    model = make_pipeline(ColumnTransformer(columns), LogisticRegression()).fit(X, MOODS)
    answering = served(model, X, MOODS)
    for row in range(10):
        sent = rows.decode(X[row : row + 1].to_json(orient="records").encode(), answering.signature.inputs)
        (found,) = answering.predict(answering.table(sent.inputs), ("predict_proba",))
        np.testing.assert_array_equal(found, model.predict_proba(X[row : row + 1]))


def test_labels_alone_also_tell_single_from_double_precision() -> None:
    numbers = np.random.default_rng(SEED).normal(1e4, 1, (100_000, 3)).astype(np.float32)
    many = pd.DataFrame(numbers, columns=list("abc"))
    y = np.where(many.a + many.b > 2e4, 1, 0)
    model = RidgeClassifier().fit(many[:200], y[:200])
    differing = np.flatnonzero(model.predict(many) != model.predict(many.astype(np.float64)))
    assert len(differing) > 1, f"seed {SEED}: no label depends on the precision"
    chosen = np.concatenate([differing[:2], np.arange(100)])
    files = package.build(model, many.iloc[chosen], y[chosen], outputs=["predict"])
    assert manifest.parse(files[MANIFEST]).signature.frame


def test_a_model_that_answers_single_precision_alike_keeps_the_array() -> None:
    model = RandomForestClassifier(3, random_state=SEED).fit(SINGLE, MOODS)
    assert not served(model, SINGLE, MOODS).signature.frame


def test_rounding_in_single_precision_is_not_another_answer_for_the_same_row() -> None:
    model = MLPClassifier(max_iter=60, random_state=0).fit(SINGLE, MOODS)
    assert served(model, SINGLE, MOODS).signature.frame


def test_a_class_that_is_not_text_is_refused_and_never_replaced() -> None:
    X, y = TABLE[["amount"]].to_numpy(), np.where(LABELS == "yes", "\ud800", "no").astype(object)
    model = LogisticRegression().fit(X, y)
    with pytest.raises(RefusedModel, match="half of a surrogate pair"):
        served(model, X, y, bare=True)
    with pytest.raises(UsageError, match="rename it, and fit again"):
        served(model, X, y)


FAR = pd.DataFrame(np.random.default_rng(SEED).normal(1e4, 1, (400, 3)).astype(np.float32), columns=list("abc"))
"""Columns whose differences have few digits in single precision."""


def test_an_output_that_single_precision_rounds_otherwise_in_larger_requests_is_left_out_or_names_the_cause() -> None:
    y = np.where(FAR.a + FAR.b > 2e4, 1, 0)
    model = RidgeClassifier().fit(FAR, y)
    with pytest.warns(LeftOut, match="left out of the package: the decision_function of a row is another one"):
        described = manifest.parse(package.build(model, FAR, y)[MANIFEST])
    assert described.signature.frame
    assert [spec.name for spec in described.signature.outputs] == ["predict"]
    assert [output["name"] for output in described.golden.outputs] == ["predict"]
    with pytest.raises(UsageError, match="convert these columns to float64, and fit again"):
        package.build(model, FAR, y, outputs=["decision_function"])
    wide = FAR.astype(np.float64)
    described = manifest.parse(package.build(RidgeClassifier().fit(wide, y), wide, y)[MANIFEST])
    assert [spec.name for spec in described.signature.outputs] == ["predict", "decision_function"]


@pytest.mark.parametrize("classifier", [RidgeClassifier, LogisticRegression])
def test_a_model_whose_labels_seem_not_to_depend_on_other_rows_is_refused_as_its_scores_do(
    classifier: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package may lack the scores of RidgeClassifier, if they are only rounded otherwise in other requests."""
    module = imported(tmp_path, monkeypatch, "centring", "def centred(X):\n    return X - 0.02 * X.mean()\n")
    X = SINGLE.astype(np.float64)
    model = make_pipeline(FunctionTransformer(module.centred), classifier()).fit(X, MOODS)
    with pytest.raises(UsageError, match="depends on the other rows of its request"):
        package.build(model, X, MOODS, code=[module])


@pytest.mark.attack
def test_a_class_of_several_targets_that_is_not_text_is_refused() -> None:
    X = TABLE[["amount"]].to_numpy()
    y = np.column_stack([LABELS, np.where(LABELS == "yes", "\ud800", "no")]).astype(object)
    model = RandomForestClassifier(2, random_state=SEED).fit(X, y)
    assert isinstance(model.classes_, list)
    with pytest.raises(RefusedModel, match="half of a surrogate pair, or bytes that are not UTF-8"):
        served(model, X, y, bare=True)
    with pytest.raises(UsageError, match="rename it, and fit again"):
        served(model, X, None)


@pytest.mark.attack
@pytest.mark.parametrize("element", ["\udfff", b"\xff"])
def test_an_answer_that_is_not_text_is_an_error_with_its_reason_in_every_protocol(element: Any) -> None:
    answer = InferResponse(None, [named("predict", np.array(["ok", element], object))])
    sent = InferRequest(None, [], None, {"binary_data_output": True})
    for encode in (
        lambda: codec.encode(answer, "m", "1", raw=True),
        lambda: codec.encode(answer, "m", "1", raw=False),
        lambda: v2.encode(answer, "m", "1"),
        lambda: v2.answer(sent, answer, "m", "1"),
        lambda: v1.encode(answer),
    ):
        with pytest.raises(
            ModelFailure, match="output predict has half of a surrogate pair, or bytes that are not UTF-8"
        ):
            encode()


def test_a_package_of_answers_that_are_not_text_is_refused() -> None:
    X: Array = np.full((ROWS, 2), "a", object)
    X[::3] = None
    model = SimpleImputer(missing_values=None, strategy="constant", fill_value="\ud800").fit(X)
    with pytest.raises(UsageError, match="output transform has half of a surrogate pair"):
        package.build(model, X, None)


def test_booleans_in_an_array_are_an_example_of_numbers() -> None:
    X = RANDOM.random((ROWS, 2)) > 0.5
    model = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(X, X[:, 0])
    opened = load(Memory({"model": joblib_bytes(model)}, "model")).opened
    body = selftest.example(model_of(opened, None), opened.example)
    assert json.loads(body)["inputs"][0]["data"] == [0.0, 0.0]
