"""A description that was edited by hand is refused in one sentence."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from mlmodel_server import manifest, package
from mlmodel_server.engine import selftest
from mlmodel_server.engine.model import model_of
from mlmodel_server.errors import RefusedModel
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import Memory
from mlmodel_server.manifest import MANIFEST
from tests.unit.server.models import iris

FILES = package.build(*iris(), compile=False)
DESCRIBED = json.loads(FILES[MANIFEST])


def first(described: Any, side: str = "inputs") -> Any:
    return described["golden"][side][0]


def served(files: dict[str, bytes]) -> None:
    """Open and test the package as a server does."""
    loaded = load(Memory(files))
    assert loaded.manifest is not None
    selftest.run(model_of(loaded.opened, loaded.manifest), loaded.manifest.golden)


CHANGES: dict[str, Callable[[Any], object]] = {
    "no examples": lambda it: it["golden"].update(inputs=[]),
    "no answers": lambda it: it["golden"].update(outputs=[]),
    "no rows": lambda it: first(it).update(shape=[0, 4], data=[]),
    "no shape": lambda it: first(it, "outputs").update(shape=[], data=[1]),
    "text as a size": lambda it: first(it).update(shape=["12", 4]),
    "a fraction as a size": lambda it: first(it).update(shape=[12.0, 4]),
    "fewer values": lambda it: first(it, "outputs")["data"].pop(),
    "more values": lambda it: first(it, "outputs")["data"].append(0),
    "a number as data": lambda it: first(it).update(data=1),
    "lists as data": lambda it: first(it, "outputs").update(data=[[0]] * 12),
    "a list as a datatype": lambda it: first(it).update(datatype=["FP64"]),
    "an unknown datatype": lambda it: first(it).update(datatype="FP128"),
    "no name": lambda it: first(it).pop("name"),
    "texts as answers": lambda it: first(it, "outputs").update(data=["x"] * 12),
    "missing answers": lambda it: first(it, "outputs").update(data=[None] * 12),
    "no inputs": lambda it: it["signature"].update(inputs=[]),
    "a matrix without columns": lambda it: it["signature"]["inputs"][0].update(shape=[]),
    "a matrix of any width": lambda it: it["signature"]["inputs"][0].update(shape=[-1, -1]),
    "two matrices": lambda it: it["signature"]["inputs"].append(it["signature"]["inputs"][0]),
    "an unknown type of an input": lambda it: it["signature"]["inputs"][0].update(datatype="x"),
    "a great width": lambda it: it["signature"]["inputs"][0].update(shape=[-1, 10**12]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_description_is_refused_in_one_sentence(change: str) -> None:
    described = copy.deepcopy(DESCRIBED)
    CHANGES[change](described)
    with pytest.raises(RefusedModel, match=r"package\.save|save the package again") as caught:
        served({**FILES, MANIFEST: json.dumps(described).encode()})
    assert "\n" not in str(caught.value)


def test_the_last_of_two_keys_counts_for_every_reader() -> None:
    """A second key changes nothing that was checked: there is one parser."""
    text = FILES[MANIFEST].decode().rstrip().removesuffix("}") + ',"version":"second"}'
    assert json.loads(text)["version"] == manifest.parse(text.encode()).version == "second"
