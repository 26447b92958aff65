"""Rows by feature name and by position, and tables, to tensors; errors name feature and row."""

from __future__ import annotations

import io
import json
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmodel_server.errors import RequestError
from mlmodel_server.formats import dates
from mlmodel_server.manifest import Signature
from mlmodel_server.protocol import invocations, rows, v1, v2
from mlmodel_server.tensors import DTYPES, Column, InferRequest, TensorSpec

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # the server silences warnings too

PEOPLE = (
    TensorSpec("age", "INT64", (-1,)),
    TensorSpec("height", "FP32", (-1,)),
    TensorSpec("city", "BYTES", (-1,)),
    TensorSpec("member", "BOOL", (-1, 1)),
)
IRIS = (TensorSpec("input-0", "FP64", (-1, 4)),)
WORDS = (TensorSpec("words", "BYTES", (-1, 2)),)
IMAGES = (TensorSpec("pixels", "UINT8", (-1, 2, 3)), TensorSpec("scale", "FP32", (-1,)))

ANN = {"age": 40, "height": 1.75, "city": "Größe", "member": True}
BOB = {"age": 41, "height": None, "city": None, "member": False}


def content(request: InferRequest) -> dict[str, Any]:
    """Names and values; NaN as None."""
    assert (request.id, request.outputs) == (None, None)
    values = {tensor.name: tensor.array.tolist() for tensor in request.inputs}
    return {
        name: [None if isinstance(value, float) and math.isnan(value) else value for value in column]
        for name, column in values.items()
    }


TWO = {"age": [40, 41], "height": [1.75, None], "city": ["Größe", None], "member": [[True], [False]]}


@pytest.mark.parametrize(
    "body",
    [
        [ANN, BOB],
        {"instances": [ANN, BOB]},
        {"inputs": [ANN, BOB]},
        {"instances": [list(ANN.values()), list(BOB.values())]},
        {"inputs": {name: [ANN[name], BOB[name]] for name in ("city", "member", "height", "age")}},
        {"dataframe_records": [ANN, BOB]},
        {"dataframe_split": {"columns": list(ANN), "data": [list(ANN.values()), list(BOB.values())], "index": [3, 4]}},
        {"dataframe_split": {"columns": ["member", "age", "city", "height"], "data": [[True, 40, "Größe", 1.75],
                                                                                     [False, 41, None, None]]}},
        {"dataframe_split": {"data": [list(ANN.values()), list(BOB.values())]}},
        "\ufeffcity,age,height,member\r\nGröße,40,1.75,true\r\n\r\n,41,,False\n",
    ],
)  # fmt: skip
def test_every_form_of_the_same_rows_gives_the_same_tensors(body: Any) -> None:
    request = ask(body)
    assert content(request) == TWO
    assert [tensor.name for tensor in request.inputs] == list(ANN)
    for spec, tensor in zip(PEOPLE, request.inputs, strict=True):
        assert tensor.datatype == spec.datatype
        assert tensor.array.dtype == DTYPES[spec.datatype]
        assert tensor.array.ndim == len(spec.shape)


def ask(body: Any, specs: rows.Specs = PEOPLE) -> InferRequest:
    if isinstance(body, str):
        return invocations.decode(body.encode(), b"text/csv", specs)
    text = json.dumps(body).encode()
    if isinstance(body, dict) and ("instances" in body or "inputs" in body):
        first = v1.decode(text, specs)
        second = invocations.decode(text, b"application/json", specs)
        for one, other in zip(first.inputs, second.inputs, strict=True):
            np.testing.assert_array_equal(one.array, other.array)
        return first
    if isinstance(body, dict) and body.keys() & {"dataframe_split", "dataframe_records"}:
        return invocations.decode(text, b"application/json", specs)
    return rows.decode(text, specs)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"age": 30.0}, {"age": [40, 30]}),
        ({"age": True, "height": True}, {"age": [40, 1], "height": [1.75, 1.0]}),
        ({"age": False, "height": False}, {"age": [40, 0], "height": [1.75, 0.0]}),
        ({"member": 1}, {"member": [[True], [True]]}),
        ({"member": 0.0}, {"member": [[True], [False]]}),
        ({"age": 2**60 + 1}, {"age": [40, 2**60 + 1]}),
    ],
)
def test_a_number_of_another_kind_is_accepted_if_it_stays_the_same(sent: Any, expected: Any) -> None:
    rows = [ANN, {**BOB, **sent}]
    lines = "\n".join(["age,height,city,member", *(",".join(map(str, row.values())) for row in rows)])
    for body in (
        rows,
        {"dataframe_split": {"columns": list(ANN), "data": [list(row.values()) for row in rows]}},
        lines,
    ):
        request = ask(body)
        assert {name: column for name, column in content(request).items() if name in expected} == expected
        assert [tensor.array.dtype for tensor in request.inputs] == [DTYPES[spec.datatype] for spec in PEOPLE]


NULLABLE = (
    TensorSpec("age", "INT64", (-1,), Column("Int64", missing=True)),
    TensorSpec("member", "BOOL", (-1,), Column("boolean", missing=True)),
)


def test_integers_and_booleans_may_be_missing_where_the_model_accepts_that() -> None:
    body = [{"age": None, "member": True}, {"age": 2**60 + 1, "member": None}, {"age": 3.0, "member": 0}]
    expected = {"age": [None, 2**60 + 1, 3], "member": [True, None, False]}
    assert content(ask(body, NULLABLE)) == expected
    assert content(ask("age,member\n,true\n1152921504606846977,NA\n3.0,0\n", NULLABLE)) == expected
    with pytest.raises(RequestError, match="outside the range of INT64"):
        ask([{"age": None, "member": True}, {"age": 2**63, "member": True}], NULLABLE)


def test_columns_that_the_model_does_not_have_are_ignored_if_the_package_says_so() -> None:
    ignoring = rows.specs_of(Signature("columns", PEOPLE, (), ignores_others=True))
    more = [{"id": "x", **ANN, "note": {"any": ["thing"]}}, BOB]
    assert content(ask(more, ignoring)) == TWO
    assert content(ask({"inputs": {**TWO, "id": ["x", "y"]}}, ignoring)) == TWO
    split = {"columns": ["id", *ANN], "data": [["x", *ANN.values()], [None, *BOB.values()]]}
    assert content(ask({"dataframe_split": split}, ignoring)) == TWO
    assert content(ask("id,age,height,city,member\nx,40,1.75,Größe,true\n,41,,,false\n", ignoring)) == TWO
    for body in (more, {"dataframe_split": split}):
        with pytest.raises(RequestError, match="unknown feature 'id'"):
            ask(body, rows.specs_of(Signature("columns", PEOPLE, ())))
    with pytest.raises(RequestError, match="missing feature 'age'"):
        ask([{"id": 1, "height": 1.0, "city": "x", "member": True}], ignoring)


def test_a_date_that_is_no_text_is_told_its_format() -> None:
    specs = (TensorSpec("day", "BYTES", (-1,), Column("datetime64[us]", format=dates.NAIVE)),)
    with pytest.raises(RequestError, match=r"row 0: feature 'day' must be a date as text in ISO 8601 .*, not a number"):
        ask([{"day": 1700000000000}], specs)


def test_one_plain_object_is_one_row() -> None:
    assert content(ask(ANN)) == {**{name: [value] for name, value in ANN.items()}, "member": [[True]]}


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [[1, 2, 3, 4], [5, 6, None, 8.5]]},
        {"instances": [{"input-0": [1, 2, 3, 4]}, {"input-0": [5, 6, None, 8.5]}]},
        {"inputs": [[1, 2, 3, 4], [5, 6, None, 8.5]]},
        {"inputs": {"input-0": [[1, 2, 3, 4], [5, 6, None, 8.5]]}},
        {"dataframe_split": {"columns": [0, 1, 2, 3], "data": [[1, 2, 3, 4], [5, 6, None, 8.5]]}},
        {"dataframe_split": {"columns": ["a", "b", "c", "d"], "data": [[1, 2, 3, 4], [5, 6, None, 8.5]]}},
        "a,b,c,d\n1,2,3,4\n5,6,nan,8.5",
        [[1, 2, 3, 4], [5, 6, None, 8.5]],
    ],
)
def test_a_model_with_one_input_of_many_columns_accepts_arrays(body: Any) -> None:
    (tensor,) = ask(body, IRIS).inputs
    assert tensor.array.dtype == np.float64
    np.testing.assert_array_equal(tensor.array, [[1, 2, 3, 4], [5, 6, np.nan, 8.5]])


def test_inputs_of_more_dimensions_are_nested_arrays_in_each_row() -> None:
    pixels = [[[1, 2, 3], [4, 5, 255]], [[0, 0, 0], [1, 1, 1]]]
    row = [{"pixels": pixels[0], "scale": 0.5}, {"pixels": pixels[1], "scale": 2}]
    assert content(ask(row, IMAGES)) == {"pixels": pixels, "scale": [0.5, 2.0]}


def test_a_model_with_one_column_accepts_bare_values() -> None:
    one = (TensorSpec("x", "FP64", (-1,)),)
    for body in ({"instances": [1, 2]}, {"instances": [[1], [2]]}, {"inputs": {"x": [1, 2]}}, "x\n1\n2"):
        assert content(ask(body, one)) == {"x": [1.0, 2.0]}


def people(**wrong: Any) -> list[dict[str, Any]]:
    return [ANN, {**BOB, **wrong}]


@pytest.mark.parametrize(
    ("body", "specs", "words"),
    [
        (people(age="41"), PEOPLE, "row 1: feature 'age' must be an integer, not text"),
        (people(age=1.5), PEOPLE, "row 1: feature 'age' must be an integer, not a floating-point number"),
        (people(age=None), PEOPLE, "row 1: feature 'age' must be an integer, not null"),
        (people(height="2024-03-01T09:30"), PEOPLE, "must be a number, not text; a model that was fitted on dates"),
        (people(height="tall"), PEOPLE, "row 1: feature 'height' must be a number, not text"),
        (people(height=[1.5]), PEOPLE, "row 1: feature 'height' must be a number, not an array"),
        (people(height=1e300), PEOPLE, "feature 'height' holds a number outside the range of FP32"),
        (people(age=2**63), PEOPLE, "feature 'age' holds a number outside the range of INT64"),
        (people(city=1), PEOPLE, "row 1: feature 'city' must be text, not a number"),
        (people(city={"b64": "YQ=="}), PEOPLE, "row 1: feature 'city' must be text, not an object"),
        (people(member=2), PEOPLE, "row 1: feature 'member' must be an array of booleans, not a number"),
        (people(member=0.5), PEOPLE, "feature 'member' must be an array of booleans, not a floating-point number"),
        (people(member="true"), PEOPLE, "feature 'member' must be an array of booleans, not text"),
        (people(member=None), PEOPLE, "feature 'member' must be an array of booleans, not null"),
        (people(age=1e300), PEOPLE, "feature 'age' holds a number outside the range of INT64"),
        (people(agee=1), PEOPLE, "row 1: unknown feature 'agee' (did you mean 'age'?); the model has age"),
        ([ANN, {"age": 1}], PEOPLE, "row 1: missing feature 'height' and 2 more"),
        ([ANN, {**ANN, "extra": 1}], PEOPLE, "row 1: unknown feature 'extra'"),
        ([ANN, [1]], PEOPLE, "row 1 must be an object by feature name"),
        ([[1, 2]], PEOPLE, "row 0 must be an array of 4 values: age, height, city, member"),
        ([list(ANN.values()), ANN], PEOPLE, "row 1 must be an array of 4 values"),
        ([[[1]], 2], IMAGES, "send each row as an object by feature name: pixels, scale"),
        ([], PEOPLE, "the request has no rows"),
        (1, PEOPLE, "send rows as a JSON array"),
        ({}, PEOPLE, "row 0: missing feature 'age' and 3 more"),
        ({"n" * 999: 1}, PEOPLE, "..."),
        ([[1, 2, 3]], IRIS, "feature 'input-0' must have 4 values in each row, not 3"),
        ([[1, 2, 3, 4], [1, 2]], IRIS, "feature 'input-0': the rows differ in length"),
        ([[1, 2, 3, 4], [1, 2, 3, "4"]], IRIS, "row 1: feature 'input-0' must be an array of numbers, not text"),
        ([["a", "b"], ["c"]], WORDS, "feature 'words': the rows differ in length"),
        ([["a"], ["c"]], WORDS, "feature 'words' must have 2 values in each row, not 1"),
        ([1], IRIS, "row 0: feature 'input-0' must be an array of numbers, not a number"),
        ([{"pixels": [[1, 2, 3]], "scale": 1}], IMAGES, "feature 'pixels' must have 2x3 values in each row, not 1x3"),
        ({"instances": [{"b64": "YQ=="}]}, IRIS, "base64 is not supported"),
        ({"instances": {}}, IRIS, "send rows as a JSON array"),
        ({"inputs": None}, IRIS, "send rows as a JSON array"),
        ({"inputs": {"age": [1]}}, PEOPLE, "missing feature 'height' and 2 more"),
        ({"inputs": {**TWO, "age": [1]}}, PEOPLE, "must have a value for each row, but 'age' has 1, 'height'"),
        ({"inputs": {**TWO, "age": []}}, PEOPLE, "feature 'age' must be an array with a value for each row"),
        ({"inputs": {**TWO, "age": 1}}, PEOPLE, "feature 'age' must be an array with a value for each row"),
        ({"dataframe_split": 1}, PEOPLE, "dataframe_split must be an object like"),
        ({"dataframe_split": {"columns": 1, "data": [[1]]}}, PEOPLE, "columns must be an array of names"),
        ({"dataframe_split": {"columns": ["age", "age"], "data": [[1, 2]]}}, PEOPLE, "column 'age' appears twice"),
        ({"dataframe_split": {"columns": ["age"], "data": [[1]]}}, PEOPLE, "missing feature 'height' and 2 more"),
        ({"dataframe_split": {"columns": ["age"], "data": [[1, 2]]}}, PEOPLE, "row 0 must be an array of 1 values"),
        ({"dataframe_split": {"columns": ["age"], "data": []}}, PEOPLE, "the request has no rows"),
        ({"dataframe_records": ANN}, PEOPLE, "send rows as a JSON array"),
        ("", PEOPLE, "first line of the CSV must be the names"),
        ("1,2,3,4\n5,6,7,8", IRIS, "first line of the CSV must be the names"),
        ("a,b,c,d", IRIS, "the request has no rows"),
        ("a,b,c,d\n1,2,3", IRIS, "row 0 has 3 values, but the first line of the CSV has 4 names"),
        ("a,b,c,d\n1,2,3,x", IRIS, "row 0: feature 'd' must be a number"),
        ("a,b,c,d\n1,2,3,2024-03-01", IRIS, "row 0: feature 'd' must be a number; a model that was fitted on dates"),
        ("a,b,c,d\n1,2,3,inf", IRIS, "row 0: feature 'd' must be a number"),
        ("a,b,c,d\n1,2,3,1_0", IRIS, "row 0: feature 'd' must be a number"),
        ('a,b,c,d\n1,2,3,"4', IRIS, "not CSV"),
        ("agee,height,city,member\nx,1,a,true", PEOPLE, "unknown feature 'agee'"),
        ("age,height,city,member\n1,1,a,true\n1.5,1,a,true", PEOPLE, "row 1: feature 'age' must be an integer"),
        ("age,height,city,member\n,1,a,true", PEOPLE, "row 0: feature 'age' must be an integer"),
        ("age,height,city,member\n1,1,a,2", PEOPLE, "row 0: feature 'member' must be an array of booleans"),
        ("age,height,city,member\n1,1,a,x", PEOPLE, "row 0: feature 'member' must be true or false"),
    ],
)  # fmt: skip
def test_an_error_names_feature_and_row(body: Any, specs: rows.Specs, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        ask(body, specs)
    assert words in str(caught.value)
    assert caught.value.status == 400
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", [b"", b"{", b"[NaN]", b"\xff", b'["\xee"]', b"[" * 200_000])
def test_a_body_that_is_not_json_is_rejected(text: bytes) -> None:
    for decode in (rows.decode, v1.decode):
        with pytest.raises(RequestError, match=r"not JSON|nested too deeply"):
            decode(text, PEOPLE)
    with pytest.raises(RequestError, match=r"not JSON|nested too deeply"):
        invocations.decode(text, b"application/json", PEOPLE)


def test_csv_must_be_utf8() -> None:
    with pytest.raises(RequestError, match="not CSV in UTF-8"):
        invocations.decode(b"age\n\xff", b"text/csv", PEOPLE)


@pytest.mark.parametrize("body", [{}, [], 1, {"instances": [[1]], "inputs": [[1]]}])
def test_errors_of_v1_and_invocations_name_what_to_send(body: Any) -> None:
    text = json.dumps(body).encode()
    with pytest.raises(RequestError, match='"instances": an array of rows'):
        v1.decode(text, IRIS)
    with pytest.raises(RequestError, match="exactly one of dataframe_split, dataframe_records, instances, inputs"):
        invocations.decode(text, b"application/json", IRIS)


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
anything = st.recursive(
    values,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(list(ANN)), inner),
    max_leaves=10,
)


@pytest.mark.attack(held=True)
@given(body=anything, specs=st.sampled_from([PEOPLE, IRIS, IMAGES]), form=st.sampled_from(["instances", "inputs", ""]))
def test_any_json_is_decoded_to_the_models_tensors_or_rejected(body: Any, specs: rows.Specs, form: str) -> None:
    text = json.dumps({form: body} if form else body).encode()
    try:
        request = v1.decode(text, specs) if form else rows.decode(text, specs)
    except RequestError:
        return
    assert [tensor.name for tensor in request.inputs] == [spec.name for spec in specs]
    assert len({len(tensor.array) for tensor in request.inputs}) == 1
    for spec, tensor in zip(specs, request.inputs, strict=True):
        assert tensor.array.dtype == DTYPES[spec.datatype]
        assert tensor.array.shape[1:] == spec.shape[1:]


@pytest.mark.attack(held=True)
@given(text=st.text(alphabet='a,"\n1.e-', max_size=30) | st.text(max_size=30))
def test_any_csv_is_decoded_to_the_models_tensors_or_rejected(text: str) -> None:
    try:
        request = invocations.decode(text.encode(errors="replace"), b"text/csv", IRIS)
    except RequestError:
        return
    assert request.inputs[0].array.shape[1:] == (4,)


SPELLINGS = sorted(invocations.MISSING)


def test_a_csv_cell_is_missing_where_pandas_reads_it_as_missing() -> None:
    """Of texts and of numbers, quoted or not; what only resembles a spelling is a text."""
    like = ["none", " ", "NAN", "-", "Nan", "N.A.", "0"]
    lines = [f"{text},{number}" for text in [*SPELLINGS, *like] for number in ("1", "NA", "n/a", "")]
    lines += [f'"{text}",2' for text in [*SPELLINGS, *like]]
    body = "\n".join(["city,height", *lines]) + "\n"
    frame = pd.read_csv(io.StringIO(body))
    expected = frame.astype(object).where(frame.notna(), None)
    specs = (TensorSpec("city", "BYTES", (-1,)), TensorSpec("height", "FP64", (-1,)))
    found = content(invocations.decode(body.encode(), b"text/csv", specs))
    assert found == {name: expected[name].tolist() for name in ("city", "height")}
    assert frozenset(pd._libs.parsers.STR_NA_VALUES) == invocations.MISSING


def test_null_is_a_missing_text_in_every_form_of_rows() -> None:
    for body in ({"instances": [{"words": None}]}, {"dataframe_records": [{"words": None}]}, [{"words": None}]):
        assert content(ask(body, (TensorSpec("words", "BYTES", (-1,)),))) == {"words": [None]}


BIG = 2**53 + 1


@pytest.mark.parametrize("value", [BIG, -BIG, 10**22 + 1])
def test_an_integer_that_becomes_another_number_is_refused(value: int) -> None:
    ages, matrix = (TensorSpec("age", "FP64", (-1,)),), IRIS
    words = "has an integer beyond 2\\^53"
    for specs, body in (
        (ages, [{"age": value}]),
        (ages, [{"age": None}, {"age": value}]),
        (matrix, [[1, 2, 3, value]]),
    ):
        with pytest.raises(RequestError, match=words):
            rows.decode(json.dumps(body).encode(), specs)
        with pytest.raises(RequestError, match=words):
            v1.decode(json.dumps({"instances": body}).encode(), specs)
    with pytest.raises(RequestError, match=words):
        invocations.decode(f"age\n{value}".encode(), b"text/csv", ages)


@pytest.mark.parametrize("text", ["9007199254740992", "-1e22", "9007199254740993.0", "1e300", "18014398509481984"])
def test_a_large_number_that_stays_the_same_or_is_no_integer_is_accepted(text: str) -> None:
    ages = (TensorSpec("age", "FP64", (-1,)),)
    assert content(rows.decode(f'{{"age": {text}}}'.encode(), ages)) == {"age": [float(text)]}
    assert content(invocations.decode(f"age\n{text}".encode(), b"text/csv", ages)) == {"age": [float(text)]}


@pytest.mark.parametrize("number", [1700000000123456768.0, 2.0**60, 2.0**63, 1e22, -(2.0**62), 5e20])
def test_the_digits_that_other_languages_print_for_a_number_are_this_number(number: float) -> None:
    ages = (TensorSpec("age", "FP64", (-1,)),)
    printed = int(Decimal(repr(number)))  # as JSON.stringify does, and encoding/json of Go
    assert printed < 10**21 or printed == number
    for body in (f'{{"age": {printed}}}', f'{{"age": {int(number)}}}'):
        assert content(rows.decode(body.encode(), ages)) == {"age": [number]}
    assert content(v1.decode(f'{{"instances": [[{printed}]]}}'.encode(), ages)) == {"age": [number]}
    assert content(invocations.decode(f"age\n{printed}".encode(), b"text/csv", ages)) == {"age": [number]}
    with pytest.raises(RequestError, match="has an integer beyond 2\\^53"):
        rows.decode(f'{{"age": {printed + 1}}}'.encode(), ages)


@pytest.mark.attack
@pytest.mark.parametrize("text", ["9007199254740993.0", "-9.007199254740993e15", "1e18"])
def test_an_integer_that_was_rounded_on_the_way_is_refused(text: str) -> None:
    ages = (TensorSpec("age", "INT64", (-1,)),)
    words = "has an integer from 2\\^53 on with a fraction or an exponent: write all of its digits"
    with pytest.raises(RequestError, match=f"row 0: feature 'age' {words}"):
        rows.decode(f'{{"age": {text}}}'.encode(), ages)
    with pytest.raises(RequestError, match=f"row 0: feature 'age' {words}"):
        invocations.decode(f"age\n{text}".encode(), b"text/csv", ages)
    sent = f'{{"inputs": [{{"name": "age", "datatype": "INT64", "shape": [1], "data": [{text}]}}]}}'
    with pytest.raises(RequestError, match=f"input 'age': data {words}"):
        v2.decode(sent.encode())


def test_a_number_out_of_the_range_of_a_small_integer_is_refused_for_its_range() -> None:
    ages = (TensorSpec("age", "UINT8", (-1,)),)
    for body in (b'{"age": 1e17}', b'{"age": 100000000000000000}'):
        with pytest.raises(RequestError, match="outside the range of UINT8"):
            rows.decode(body, ages)
    sent = b'{"inputs": [{"name": "age", "datatype": "UINT8", "shape": [1], "data": [1e17]}]}'
    with pytest.raises(RequestError, match="outside the range of UINT8"):
        v2.decode(sent)


@pytest.mark.attack
@pytest.mark.parametrize("digits", [16, 41, 300])
def test_an_integer_of_any_length_in_csv_is_refused_if_it_changes(digits: int) -> None:
    ages = (TensorSpec("age", "FP64", (-1,)),)
    with pytest.raises(RequestError, match="has an integer beyond 2\\^53"):
        invocations.decode(f"age\n{'9' * digits}1".encode(), b"text/csv", ages)


def test_half_precision_has_its_own_range() -> None:
    ages = (TensorSpec("age", "FP16", (-1,)),)
    assert content(rows.decode(b'{"age": 65504}', ages)) == {"age": [65504.0]}
    with pytest.raises(RequestError, match="outside the range of FP16"):
        rows.decode(b'{"age": 70000}', ages)
