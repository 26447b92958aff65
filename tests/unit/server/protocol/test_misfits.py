"""No text of msgspec reaches a client: each becomes a sentence that names the field and what to send."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from mlmodel_server.errors import RequestError
from mlmodel_server.observe.feedback import Labelled
from mlmodel_server.protocol import jsonbody, misfits, v2

VALUES: list[Any] = [None, True, 1, -1, 1.5, 10**30, "text", [], [None], [[1]], {}, {"other": 1}]
BROKEN = [b"", b"{", b"{]", b"1 2", b"[1,]", b"nul", b'{"a":1e999}', b'"a\nb"', b'"\\x"', b"01", b"1.", b'"\\ud800"']


def requests() -> Iterator[Any]:
    tensor = {"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}
    yield from VALUES
    for value in VALUES:
        for key in ("inputs", "id", "outputs", "parameters"):
            yield {"inputs": [tensor], key: value}
            yield {"inputs": [tensor], key: [value]}
            yield {"inputs": [tensor], key: {"a": value}}
        for key in (*tensor, "parameters"):
            yield {"inputs": [tensor | {key: value}]}
            yield {"inputs": [tensor | {key: [value]}]}
            yield {"inputs": [tensor | {key: {"a": value}}]}
            yield {"inputs": [{name: kept for name, kept in tensor.items() if name != key}]}
        for datatype in ("INT8", "BOOL", "BYTES", "UINT64", "FP16"):
            yield {"inputs": [tensor | {"datatype": datatype, "data": [value]}]}


def check(text: str) -> None:
    for foreign in ("`", "Expected", "Object", "got ", "$", "msgspec", "malformed", "truncated"):
        assert foreign not in text, text
    assert "is not valid" not in text, "every message of msgspec is known"


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_every_misfit_of_a_v2_request_is_a_sentence_of_ours() -> None:
    rejected = 0
    for sent in requests():
        try:
            v2.decode(json.dumps(sent).encode())
        except RequestError as error:
            check(str(error))
            rejected += 1
    assert rejected > 200


@pytest.mark.parametrize("body", BROKEN)
def test_every_body_that_is_not_json_is_named_so(body: bytes) -> None:
    for decode in (jsonbody.parse, v2.decode):
        with pytest.raises(RequestError) as caught:
            decode(body)
        check(str(caught.value))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (1, "the body must be an object or an array, not an integer"),
        ({"prediction_id": "a", "label": None}, "label must be a boolean, a number or text, not null"),
        ([{"prediction_id": 1}], "[0].prediction_id must be text, not an integer"),
        ([{}], "[0].prediction_id is missing"),
        ([{"prediction_id": "a", "x`\u202e": 1}], "[0] has the unknown field 'x`\\u202e': remove it"),
    ],
)
def test_the_sentence_names_the_field(body: Any, text: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(json.dumps(body), type=Labelled | list[Labelled])
    assert misfits.sentence(str(caught.value)) == text


def test_bounds_are_named() -> None:
    assert misfits.sentence("Expected `array` of length <= 8 - at `$.a`") == "a must be an array of at most 8 elements"
    assert misfits.sentence("Expected `int` >= 0 - at `$.a[0]`") == "a[0] must be an integer of at least 0"
    assert misfits.sentence("a new message") == "the body is not valid"
    assert misfits.malformed("JSON is malformed: invalid number (byte 1)") == "the error is at byte 1"
    assert misfits.malformed("Input data was truncated") == "it ends too early"
