"""Requests against a signature: tensors that fit, and the errors for those that do not."""

from __future__ import annotations

import json
import logging
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from mlmodel_server import package
from mlmodel_server.engine import selftest
from mlmodel_server.engine.model import Model, model_of
from mlmodel_server.errors import ModelFailure, RefusedModel, RequestError
from mlmodel_server.formats import sklearn
from mlmodel_server.formats.prepare import prepare
from mlmodel_server.manifest import Signature
from mlmodel_server.observe.failures import FailureLog
from mlmodel_server.protocol import v2
from mlmodel_server.tensors import DTYPES, Array, Column, InferRequest, Tensor, TensorSpec
from tests.unit.server.loglines import events
from tests.unit.server.models import SEED, iris, mixed
from tests.unit.server.package.test_package import served

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # the server silences warnings too


def bare(estimator: Any) -> Model:
    return model_of(sklearn.opened(estimator, "joblib"), None)


def ask(model: Model, *tensors: dict[str, Any], outputs: list[str] | None = None) -> Any:
    body: dict[str, Any] = {"inputs": list(tensors)}
    if outputs is not None:
        body["outputs"] = [{"name": name} for name in outputs]
    return json.loads(v2.encode(model.infer(v2.decode(json.dumps(body).encode())), "m", "1"))["outputs"]


def column(name: str, *data: Any, datatype: str = "FP64", shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "shape": shape or [len(data)], "datatype": datatype, "data": list(data)}


@pytest.fixture(scope="module")
def flowers() -> Model:
    return served(package.build(*iris(), compile=False))[0]


@pytest.fixture(scope="module")
def customers() -> Model:
    return served(package.build(*mixed(), compile=False))[0]


@pytest.fixture(scope="module")
def numbers() -> Model:
    """A model of named columns, all of them numbers."""
    _, X, y = iris()
    table = pd.DataFrame(X[:, :2], columns=["length", "width"]).assign(n=np.arange(len(X)))
    return served(package.build(LogisticRegression(max_iter=2000).fit(table, y), table, y, compile=False))[0]


CUSTOMER = [
    column("amount", 120.5),
    column("count", 3, datatype="INT64"),
    column("country", "de", datatype="BYTES"),
    column("level", "low", datatype="BYTES"),
    column("member", True, datatype="BOOL"),
]


def test_predict_is_the_default_and_probabilities_are_returned_on_request(flowers: Model) -> None:
    row = {"name": "input-0", "shape": [1, 4], "datatype": "FP64", "data": [5.1, 3.5, 1.4, 0.2]}
    assert ask(flowers, row) == [{"name": "predict", "shape": [1], "datatype": "INT64", "data": [0]}]
    proba, predict = ask(flowers, row, outputs=["predict_proba", "predict"])
    assert proba["shape"] == [1, 3]
    assert sum(proba["data"]) == pytest.approx(1)
    assert predict["name"] == "predict"
    with pytest.raises(RequestError, match="unknown output 'loss'; the model has predict, predict_proba"):
        ask(flowers, row, outputs=["loss"])


@pytest.mark.parametrize("datatype", ["FP64", "FP32", "FP16", "INT64", "UINT8"])
def test_a_matrix_may_have_any_number_type_and_any_name(flowers: Model, datatype: str) -> None:
    row = {"name": "anything", "shape": [2, 4], "datatype": datatype, "data": [5, 3, 1, 0, 6, 3, 5, 2]}
    assert ask(flowers, row)[0]["data"] == [0, 2]


def test_a_single_precision_model_rejects_numbers_that_are_too_large() -> None:
    _, X, y = iris()
    narrow = X.astype(np.float32)
    model = served(package.build(LogisticRegression(max_iter=500).fit(narrow, y), narrow, y, compile=False))[0]
    assert model.signature.inputs[0].datatype == "FP32"
    with pytest.raises(RequestError, match="outside the range of FP32"):
        ask(model, {"name": "x", "shape": [1, 4], "datatype": "FP64", "data": [1e300, 1, 1, 1]})


@given(
    datatype=st.sampled_from(list(DTYPES)),
    shape=st.lists(st.integers(0, 5), max_size=3),
    data=st.lists(st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.text()),
)
def test_any_request_is_predicted_or_rejected(flowers: Model, datatype: str, shape: list[int], data: list[Any]) -> None:
    try:
        outputs = ask(flowers, {"name": "x", "shape": shape, "datatype": datatype, "data": data})
    except RequestError:
        return
    assert outputs[0]["datatype"] == "INT64"


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (
            [{"name": "i", "shape": [1, 3], "datatype": "FP64", "data": [1, 2, 3]}],
            r"shape must be \[rows, 4\], not \[1, 3\]",
        ),
        (
            [{"name": "i", "shape": [4], "datatype": "FP64", "data": [1, 2, 3, 4]}],
            r"shape must be \[rows, 4\], not \[4\]",
        ),
        ([{"name": "i", "shape": [0, 4], "datatype": "FP64", "data": []}], "send at least one row"),
        (
            [{"name": "i", "shape": [1, 4], "datatype": "BYTES", "data": list("abcd")}],
            "must be a number type, not BYTES",
        ),
        ([column("a", 1.0), column("b", 1.0)], r"send one input of shape \[rows, 4\], not 2 inputs"),
    ],
)
def test_a_wrong_matrix_is_rejected(flowers: Model, tensors: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        ask(flowers, *tensors)


def test_columns_may_be_in_any_order_and_of_one_or_two_dimensions(customers: Model) -> None:
    expected = ask(customers, *CUSTOMER)
    assert ask(customers, *reversed(CUSTOMER)) == expected
    assert ask(customers, *({**tensor, "shape": [1, 1]} for tensor in CUSTOMER)) == expected
    assert expected[0]["data"][0] in ("yes", "no")


@pytest.mark.parametrize(
    ("index", "tensor", "words"),
    [
        (0, column("amount", "x", datatype="BYTES"), "input 'amount': datatype must be FP64, not BYTES"),
        (
            0,
            column("amount", "2024-03-01", datatype="BYTES"),
            "must be FP64, not BYTES; a model that was fitted on dates",
        ),
        (1, column("count", 1.5), "input 'count': datatype is INT64, so FP64 must have whole numbers in the range"),
        (1, column("count", 1e300), "input 'count': datatype is INT64, so FP64 must have whole numbers in the range"),
        (1, column("count", 2**63, datatype="UINT64"), "datatype is INT64, so UINT64 must have whole numbers in the"),
        (1, column("count", None, datatype="INT64"), "input 'count' accepts no missing value"),
        (1, column("count", None), "input 'count' accepts no missing value"),
        (4, column("member", 2, datatype="INT64"), "input 'member': datatype is BOOL, so INT64 must have 0 and 1 only"),
        (4, column("member", None, datatype="BOOL"), "input 'member' accepts no missing value"),
        (4, column("member", "1", datatype="BYTES"), "input 'member': datatype must be BOOL, not BYTES"),
        (2, column("country", "de", "fr", datatype="BYTES"), "input 'country' has 2 rows, but 'amount' has 1"),
        (
            2,
            column("country", "de", "fr", datatype="BYTES", shape=[1, 2]),
            r"must be \[rows\] or \[rows, 1\], not \[1, 2\]",
        ),
        (2, column("amount", 1.0), "input 'amount' appears twice"),
        (
            2,
            column("land", "de", datatype="BYTES"),
            "unknown input 'land'; the model has amount, count, country, level",
        ),
    ],
)
def test_an_error_names_the_wrong_column(customers: Model, index: int, tensor: dict[str, Any], words: str) -> None:
    tensors = [*CUSTOMER[:index], tensor, *CUSTOMER[index + 1 :]]
    with pytest.raises(RequestError, match=words):
        ask(customers, *tensors)


def test_an_error_names_missing_columns_and_rows(customers: Model) -> None:
    with pytest.raises(RequestError, match="missing input 'country', 'member'"):
        ask(customers, CUSTOMER[0], CUSTOMER[1], CUSTOMER[3])
    with pytest.raises(RequestError, match="send at least one row"):
        ask(customers, *({**tensor, "shape": [0], "data": []} for tensor in CUSTOMER))


def test_numeric_columns_may_be_sent_as_one_matrix(numbers: Model) -> None:
    separate = ask(numbers, column("length", 5.1), column("width", 3.5), column("n", 7, datatype="INT64"))
    assert ask(numbers, {"name": "row", "shape": [1, 3], "datatype": "FP64", "data": [5.1, 3.5, 7]}) == separate
    with pytest.raises(RequestError, match="missing input 'width', 'n'"):
        ask(numbers, column("length", 5.1))


@pytest.mark.attack(held=True)
def test_the_error_and_log_of_a_failing_model_have_no_values(caplog: pytest.LogCaptureFixture) -> None:
    X = np.array([[1.0], [2.0]])
    model = bare(make_pipeline(OneHotEncoder(), LogisticRegression()).fit(X, [0, 1]))
    log = FailureLog()
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            with pytest.raises(ModelFailure, match=r"^the model failed on this input \(ValueError\)$") as caught:
                ask(model, {"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [4711.0]})
            log.log(caught.value)
    (line,) = events(caplog)
    assert line.startswith('"prediction failed" error="the model failed on this input (ValueError)" place=')
    assert "sklearn.preprocessing._encoders" in line
    assert "4711" not in line
    assert "/" not in line


def test_a_bare_model_has_the_signature_of_its_training_data() -> None:
    _, X, y = iris()
    plain = bare(LogisticRegression(max_iter=500).fit(X, np.array(["a", "b", "c"])[y]))
    assert [(spec.name, spec.shape) for spec in plain.signature.inputs] == [("input-0", (-1, 4))]
    assert {spec.name: spec.datatype for spec in plain.signature.outputs} == {
        "predict": "BYTES",
        "predict_proba": "FP64",
        "decision_function": "FP64",
    }
    named = bare(LogisticRegression(max_iter=500).fit(pd.DataFrame(X, columns=list("abcd")), y))
    assert [spec.name for spec in named.signature.inputs] == list("abcd")
    assert ask(named, *json.loads(selftest.blank_body(named))["inputs"])
    with pytest.raises(RefusedModel, match="the LogisticRegression is not fitted: call fit first"):
        bare(LogisticRegression())
    for nothing in ({"a": 1}, None, np.zeros(3)):
        with pytest.raises(RefusedModel, match="is not a model of scikit-learn"):
            bare(nothing)


def test_a_bare_model_of_any_inputs_has_an_example() -> None:
    inputs = (
        TensorSpec("text", "BYTES", (-1,)),
        TensorSpec("flag", "BOOL", (-1, 1)),
        TensorSpec("count", "INT64", (-1,)),
        TensorSpec("image", "FP32", (-1, 2, -1)),
    )
    outputs = (TensorSpec("y", "FP64", (-1,)),)
    model = Model(lambda *_: [], Signature("tensors", inputs, outputs))
    table = model.table(v2.decode(selftest.blank_body(model)).inputs)
    assert {name: array.tolist() for name, array in dict(table).items()} == {
        "text": [""],
        "flag": [[False]],
        "count": [0],
        "image": [[[0.0], [0.0]]],
    }


def test_a_model_is_prepared_to_use_one_thread_and_no_names() -> None:
    _, X, y = iris()
    table = pd.DataFrame(X, columns=list("abcd"))
    forest = prepare(make_pipeline(RandomForestClassifier(3, n_jobs=-1, verbose=1, random_state=SEED)).fit(table, y))
    assert forest[0].n_jobs == 1
    assert forest[0].verbose == 0
    assert not hasattr(forest[0], "feature_names_in_")
    assert not hasattr(forest[0].estimators_[0], "feature_names_in_")


def test_an_integer_that_a_float_cannot_hold_is_refused_in_a_table_of_numbers() -> None:
    inputs = (TensorSpec("id", "INT64", (-1,)), TensorSpec("age", "FP64", (-1,)))
    model = Model(lambda table, _: [table[:, 0]], Signature("columns", inputs, (TensorSpec("predict", "FP64", (-1,)),)))
    ages = Tensor("age", "FP64", np.array([1.0]))
    for value in (2**53, -(2**54), 2**62, 10**16, -(2**63)):
        request = InferRequest(None, [Tensor("id", "INT64", np.array([value])), ages], None)
        assert model.infer(request).outputs[0].array.tolist() == [value]
    for value in (2**53 + 1, -(2**54) - 2, 2**63 - 1):
        request = InferRequest(None, [Tensor("id", "INT64", np.array([value])), ages], None)
        with pytest.raises(RequestError, match="input 'id' has an integer beyond 2\\^53"):
            model.infer(request)


def test_an_integer_beside_a_missing_one_is_refused_as_alone() -> None:
    column = Column("int64", missing=True)
    inputs = (TensorSpec("id", "INT64", (-1,), column), TensorSpec("age", "FP64", (-1,)))
    matrix = (TensorSpec("input-0", "FP64", (-1, 2)),)
    signatures = (Signature("columns", inputs, ()), Signature("columns", inputs, (), frame=True))
    missing: Array = np.array([2**53 + 1, None], object)
    for name, signature in (("id", signatures[0]), ("age", signatures[0]), ("age", signatures[1])):
        sent = [
            Tensor(spec.name, "INT64", missing)
            if spec.name == name
            else Tensor(spec.name, spec.datatype, np.ones(2, DTYPES[spec.datatype]))
            for spec in inputs
        ]
        with pytest.raises(RequestError, match=f"input '{name}' has an integer beyond 2"):
            Model(lambda table, _: [table[:, 0]], signature).table(sent)
    with pytest.raises(RequestError, match="input 'input-0' has an integer beyond 2"):
        Model(lambda table, _: [table[:, 0]], Signature("matrix", matrix, ())).table(
            [Tensor("input-0", "INT64", missing.reshape(1, 2))]
        )


@pytest.mark.parametrize(("datatype", "value"), [("FP64", 2**53 + 1), ("FP32", 2**24 + 1), ("FP16", 2**11 + 1)])
def test_an_integer_or_number_that_a_model_of_tensors_would_take_for_another_is_refused(
    datatype: str, value: int
) -> None:
    model = Model(lambda table, _: [table["a"]], Signature("tensors", (TensorSpec("a", datatype, (-1,)),), ()))
    assert model.table([Tensor("a", "INT64", np.array([value - 1]))])["a"].tolist() == [value - 1]
    with pytest.raises(RequestError, match="input 'a' has an integer beyond 2"):
        model.table([Tensor("a", "INT64", np.array([value]))])
    if datatype != "FP64":
        with pytest.raises(RequestError, match=f"holds a number outside the range of {datatype}"):
            model.table([Tensor("a", "FP64", np.array([1e300]))])


@pytest.mark.parametrize("datatype", ["FP64", "FP32"])
def test_an_integer_that_a_float_cannot_hold_is_refused_in_a_matrix(datatype: str) -> None:
    signature = Signature(
        "matrix", (TensorSpec("input-0", datatype, (-1, 2)),), (TensorSpec("predict", "FP64", (-1,)),)
    )
    model = Model(lambda table, _: [table[:, 0]], signature)
    exact = InferRequest(None, [Tensor("input-0", "INT64", np.array([[2**53, 1]]))], None)
    assert model.infer(exact).outputs[0].array.tolist() == [2.0**53]
    power = 53 if datatype == "FP64" else 24
    for value in (np.array([[2**power + 1, 1]]), np.array([[2**64 - 1, 1]], np.uint64)):
        sent = Tensor("input-0", "INT64" if value.dtype == np.int64 else "UINT64", value)
        with pytest.raises(RequestError, match=f"input 'input-0' has an integer beyond 2\\^{power}"):
            model.infer(InferRequest(None, [sent], None))


@pytest.mark.attack(held=True)
def test_a_model_that_ends_its_process_fails_the_request_only() -> None:
    def leave(table: object, outputs: object) -> list[Array]:
        raise SystemExit(3)

    inputs = (TensorSpec("age", "FP64", (-1,)),)
    model = Model(leave, Signature("columns", inputs, (TensorSpec("predict", "FP64", (-1,)),)))
    with pytest.raises(ModelFailure, match="SystemExit"):
        model.infer(InferRequest(None, [Tensor("age", "FP64", np.array([1.0]))], None))


@pytest.mark.attack(held=True)
def test_a_request_with_a_missing_value_is_not_joined_with_others_in_a_frame() -> None:
    inputs = (TensorSpec("id", "INT64", (-1,), Column("int64", True)),)
    signature = Signature("columns", inputs, (TensorSpec("predict", "FP64", (-1,)),), frame=True)
    model = Model(lambda table, _: [np.zeros(len(table))], signature)
    whole, other = np.array([[1]], object), np.array([[2]], object)
    missing = np.array([[None]], object)
    assert model.kind_of(whole, ("predict",)) == model.kind_of(other, ("predict",))
    assert model.kind_of(missing, ("predict",)) != model.kind_of(missing, ("predict",))
