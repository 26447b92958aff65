"""Inference with JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlmodel_server.tensors import DTYPES
from tests.conformance.target import Target, flat, has_null, nested, rows

pytestmark = pytest.mark.section("inference_rest.md, Inference")


def test_answer(target: Target) -> None:
    """A response has the model's name, the version that answered if versions are listed, and complete tensors."""
    answer = target.infer(target.sample)
    assert target.outputs(answer), "there is an output"
    assert answer.json["model_name"] == target.model
    if target.version:
        assert answer.json.get("model_version", target.version) == target.version


def test_every_path_returns_the_same(target: Target) -> None:
    """POST /v2/models/MODEL[/versions/VERSION]/infer returns the same with and without the version."""
    first, *others = (target.outputs(target.infer(target.sample, f"{base}/infer")) for base in target.bases)
    for other in others:
        assert other == first


@pytest.mark.parametrize("text", ["a", "", "größe-雪-😀", 'quote " and \\ backslash', "x" * 1000])
def test_id_is_returned(target: Target, text: str) -> None:
    """The response repeats the id of the request."""
    assert target.infer(target.request(id=text)).json.get("id", "") == text


@pytest.mark.house
def test_no_id(target: Target) -> None:
    """The response to a request without id has no id."""
    assert "id" not in target.infer(target.sample).json


def test_no_nulls(target: Target) -> None:
    """No field of a response is null."""
    assert not has_null(target.infer(target.sample).json)


def test_nested_data(target: Target) -> None:
    """Data may be flat, or nested like its shape."""
    request = target.request()
    for tensor in request["inputs"]:
        tensor["data"] = nested(flat(tensor["data"]), tensor["shape"])
    assert target.outputs(target.infer(request)) == target.outputs(target.infer(target.sample))


def test_rows_are_predicted_in_order(target: Target) -> None:
    """A request of several rows gets the predictions of each row, in order."""
    if any(spec["shape"][0] != -1 for spec in target.metadata["inputs"]):
        pytest.skip("the model accepts one row at a time")
    request = target.request()
    for tensor in request["inputs"]:
        tensor["data"] = flat(tensor["data"]) * 3
        tensor["shape"][0] *= 3
    many, one = target.outputs(target.infer(request)), target.outputs(target.infer(target.sample))
    for name, tensor in one.items():
        assert many[name]["shape"] == [3 * tensor["shape"][0], *tensor["shape"][1:]]
        assert many[name]["data"] == tensor["data"] * 3


def test_outputs_are_selected(target: Target) -> None:
    """The response has only the outputs that the request selects."""
    names = target.output_names
    for name in names:
        assert list(target.outputs(target.infer(target.request(outputs=[{"name": name}])))) == [name]
    for selected in (names, names[::-1]):
        outputs = [{"name": name, "parameters": {}} for name in selected]
        assert sorted(target.outputs(target.infer(target.request(outputs=outputs)))) == sorted(names)


def test_unknown_parameters_are_accepted(target: Target) -> None:
    """A request, its inputs and its outputs may have parameters of texts, numbers and booleans."""
    more = {"x-text": "é", "x-whole": 2**53 + 1, "x-half": 0.5, "x-flag": True}
    output = target.output_names[0]
    request = target.with_input(parameters=more)
    answer = target.infer({**request, "parameters": more, "outputs": [{"name": output, "parameters": more}]})
    assert list(target.outputs(answer)) == [output]


@pytest.mark.parametrize(
    "form", [{"indent": 3}, {"separators": (",", ":")}, {"sort_keys": True}, {"ensure_ascii": False}]
)
def test_any_form_of_json(target: Target, form: dict[str, Any]) -> None:
    """White space and the order of fields do not matter."""
    answer = target.infer(json.dumps(target.sample, **form).encode())
    assert target.outputs(answer) == target.outputs(target.infer(target.sample))


def test_content_type_with_charset(target: Target) -> None:
    """The content type may have parameters."""
    target.outputs(target.infer(target.sample, Content_Type="application/json; charset=utf-8"))


def test_floats_without_a_fraction(target: Target) -> None:
    """A floating-point element may have no fraction."""
    for tensor in target.sample["inputs"]:
        if tensor["datatype"].startswith("FP"):
            data = [round(value) for value in flat(tensor["data"])]
            break
    else:
        pytest.skip("the model has no input of floating-point numbers")
    request = target.request()
    next(sent for sent in request["inputs"] if sent["name"] == tensor["name"])["data"] = data
    target.outputs(target.infer(request))


@pytest.mark.parametrize("form", ["flat", "nested"])
@pytest.mark.parametrize("datatype", list(DTYPES))
def test_every_datatype_is_parsed(target: Target, datatype: str, form: str) -> None:
    """A server parses each datatype: the model answers, or an error names the datatype that it requires."""
    first = target.sample["inputs"][0]
    size = len(flat(first["data"]))
    element: Any = {"BYTES": "größe 雪", "BOOL": True}.get(datatype, 1)
    data = [element] * size
    tensor = {"datatype": datatype, "data": data if form == "flat" else nested(data, first["shape"])}
    answer = target.infer(target.with_input(**tensor))
    if answer.status == 200:
        target.outputs(answer)
    else:
        target.rejected(answer, first["name"], datatype)


@pytest.mark.house
def test_any_number_type_for_floats(target: Target) -> None:
    """A model of floating-point numbers accepts every number type, with the same response."""
    first = target.sample["inputs"][0]
    if first["datatype"] not in ("FP32", "FP64"):
        pytest.skip("the first input is not of floating-point numbers")
    data = [1] * len(flat(first["data"]))
    numbers = [datatype for datatype in DTYPES if datatype not in ("BOOL", "BYTES")]
    answers = [target.outputs(target.infer(target.with_input(datatype=kind, data=data))) for kind in numbers]
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.house
def test_optional_fields_may_be_null(target: Target) -> None:
    """An optional field of a request may be null."""
    request = target.request(id=None, parameters=None, outputs=None)
    for tensor in request["inputs"]:
        tensor["parameters"] = None
    assert target.outputs(target.infer(request)) == target.outputs(target.infer(target.sample))


@pytest.mark.house
def test_unknown_fields_are_ignored(target: Target) -> None:
    """A field of a later version of the protocol is ignored."""
    request = target.with_input(later={"a": [None]})
    target.outputs(target.infer({**request, "later": [{}]}))


@pytest.mark.house
def test_sample_has_a_row(target: Target) -> None:
    """The documented example has one row."""
    assert {rows(tensor) for tensor in target.sample["inputs"]} == {1}
