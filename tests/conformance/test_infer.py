"""Inference over JSON: what is answered, and how."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlmodel_server.tensors import DTYPES
from tests.conformance.target import Target, flat, nested, nulls, rows

pytestmark = pytest.mark.section("inference_rest.md, Inference")


def test_answer(target: Target) -> None:
    """An answer has the model's name, the version that answered if versions are listed, and whole tensors."""
    answer = target.infer(target.sample)
    assert target.outputs(answer), "there is an output"
    assert answer.json["model_name"] == target.model
    if target.version:
        assert answer.json.get("model_version", target.version) == target.version


def test_every_path_gives_the_same_answer(target: Target) -> None:
    """POST /v2/models/MODEL[/versions/VERSION]/infer."""
    first, *others = (target.outputs(target.infer(target.sample, f"{base}/infer")) for base in target.bases)
    for other in others:
        assert other == first


@pytest.mark.parametrize("text", ["a", "", "größe-雪-😀", 'quote " and \\ backslash', "x" * 1000])
def test_id_comes_back(target: Target, text: str) -> None:
    """The id of a request is in its answer."""
    assert target.infer(target.request(id=text)).json.get("id", "") == text


@pytest.mark.house
def test_no_id(target: Target) -> None:
    """A request without id gets none."""
    assert "id" not in target.infer(target.sample).json


def test_no_nulls(target: Target) -> None:
    """No field of an answer is null: what there is not, is left out."""
    assert not nulls(target.infer(target.sample).json)


def test_nested_data(target: Target) -> None:
    """Data may be flat or nested as its shape says."""
    request = target.request()
    for tensor in request["inputs"]:
        tensor["data"] = nested(flat(tensor["data"]), tensor["shape"])
    assert target.outputs(target.infer(request)) == target.outputs(target.infer(target.sample))


def test_rows_are_answered_in_order(target: Target) -> None:
    """A request of several rows gets what each of them would get."""
    if any(spec["shape"][0] != -1 for spec in target.metadata["inputs"]):
        pytest.skip("the model takes one row at a time")
    request = target.request()
    for tensor in request["inputs"]:
        tensor["data"] = flat(tensor["data"]) * 3
        tensor["shape"][0] *= 3
    many, one = target.outputs(target.infer(request)), target.outputs(target.infer(target.sample))
    for name, tensor in one.items():
        assert many[name]["shape"] == [3 * tensor["shape"][0], *tensor["shape"][1:]]
        assert many[name]["data"] == tensor["data"] * 3


def test_outputs_are_selected(target: Target) -> None:
    """Only the outputs that a request names are answered."""
    names = target.output_names
    for name in names:
        assert list(target.outputs(target.infer(target.request(outputs=[{"name": name}])))) == [name]
    for wanted in (names, names[::-1]):
        asked = [{"name": name, "parameters": {}} for name in wanted]
        assert sorted(target.outputs(target.infer(target.request(outputs=asked)))) == sorted(names)


def test_parameters_are_let_pass(target: Target) -> None:
    """Parameters, of text, numbers and truth values, may be given for a request, its inputs and its outputs."""
    more = {"x-text": "é", "x-whole": 2**53 + 1, "x-half": 0.5, "x-flag": True}
    output = target.output_names[0]
    request = target.with_input(parameters=more)
    answer = target.infer({**request, "parameters": more, "outputs": [{"name": output, "parameters": more}]})
    assert list(target.outputs(answer)) == [output]


@pytest.mark.parametrize(
    "form", [{"indent": 3}, {"separators": (",", ":")}, {"sort_keys": True}, {"ensure_ascii": False}]
)
def test_any_form_of_json(target: Target, form: dict[str, Any]) -> None:
    """White space and the order of fields mean nothing."""
    answer = target.infer(json.dumps(target.sample, **form).encode())
    assert target.outputs(answer) == target.outputs(target.infer(target.sample))


def test_content_type_with_charset(target: Target) -> None:
    """The content type may have parameters."""
    target.outputs(target.infer(target.sample, Content_Type="application/json; charset=utf-8"))


def test_whole_numbers_are_floats(target: Target) -> None:
    """A floating-point element may be written without a fraction."""
    for tensor in target.sample["inputs"]:
        if tensor["datatype"].startswith("FP"):
            data = [round(value) for value in flat(tensor["data"])]
            break
    else:
        pytest.skip("the model takes no floating-point numbers")
    request = target.request()
    next(sent for sent in request["inputs"] if sent["name"] == tensor["name"])["data"] = data
    target.outputs(target.infer(request))


@pytest.mark.parametrize("form", ["flat", "nested"])
@pytest.mark.parametrize("datatype", list(DTYPES))
def test_every_datatype_is_read(target: Target, datatype: str, form: str) -> None:
    """A tensor of each datatype is read: the model answers, or it is told which datatype is wanted instead."""
    first = target.sample["inputs"][0]
    size = len(flat(first["data"]))
    element: Any = {"BYTES": "größe 雪", "BOOL": True}.get(datatype, 1)
    data = [element] * size
    tensor = {"datatype": datatype, "data": data if form == "flat" else nested(data, first["shape"])}
    answer = target.infer(target.with_input(**tensor))
    if answer.status == 200:
        target.outputs(answer)
    else:
        target.refused(answer, first["name"], datatype)


@pytest.mark.house
def test_any_number_type_that_means_the_same(target: Target) -> None:
    """A model of floating-point numbers takes every number type, with the same answer."""
    first = target.sample["inputs"][0]
    if first["datatype"] not in ("FP32", "FP64"):
        pytest.skip("the first input takes no floating-point numbers")
    data = [1] * len(flat(first["data"]))
    numbers = [datatype for datatype in DTYPES if datatype not in ("BOOL", "BYTES")]
    answers = [target.outputs(target.infer(target.with_input(datatype=kind, data=data))) for kind in numbers]
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.house
def test_optional_fields_may_be_null(target: Target) -> None:
    """Clients that write null for what they leave out are understood."""
    request = target.request(id=None, parameters=None, outputs=None)
    for tensor in request["inputs"]:
        tensor["parameters"] = None
    assert target.outputs(target.infer(request)) == target.outputs(target.infer(target.sample))


@pytest.mark.house
def test_unknown_fields_are_let_pass(target: Target) -> None:
    """A field of a later version of the protocol does no harm."""
    request = target.with_input(later={"a": [None]})
    target.outputs(target.infer({**request, "later": [{}]}))


@pytest.mark.house
def test_sample_has_a_row(target: Target) -> None:
    """The example in the documentation is one row, which the model answers."""
    assert {rows(tensor) for tensor in target.sample["inputs"]} == {1}
