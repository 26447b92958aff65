"""How often the ConfigMap of a model is read, and when an earlier result is used."""

from __future__ import annotations

from mlmodel_operator.config_maps import READ_SECONDS, ConfigMapRead, ConfigMaps
from mlmodel_operator.observe import files_digest
from mlmodel_operator.runtime.api import ApiError
from mlmodel_operator.runtime.resource import CONFIG_MAPS, Body
from tests.unit.operator.runtime.support import FakeClock, MemoryApi, asynchronous

KEY = ("bank", "fraud")
MISSING = ConfigMapRead(missing=True)


class Reads:
    """ConfigMaps of an API server in memory."""

    def __init__(self) -> None:
        self.api, self.clock = MemoryApi(), FakeClock()
        self.config_maps = ConfigMaps(self.api, self.clock)

    async def create(self, content: str, name: str = "fraud-v1") -> None:
        meta = {"namespace": KEY[0], "name": name}
        self.api.objects.pop((CONFIG_MAPS, KEY[0], name), None)
        await self.api.create(CONFIG_MAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, **data(content)})

    async def read(self, *, pin: bool, name: str = "fraud-v1") -> ConfigMapRead:
        return await self.config_maps.read(KEY, name, pin=pin)

    def count(self) -> int:
        return [verb for verb, _, _ in self.api.calls].count("get")


def data(content: str) -> Body:
    return {"data": {"mlmodel.json": content}}


def found(content: str) -> ConfigMapRead:
    return ConfigMapRead(files_digest(data(content)))


@asynchronous
async def test_a_missing_config_map_is_read_again_after_some_seconds() -> None:
    reads = Reads()
    assert await reads.read(pin=True) == MISSING
    await reads.create("a")
    await reads.clock.advance(READ_SECONDS - 0.1)
    assert await reads.read(pin=True) == MISSING
    assert reads.count() == 1
    await reads.clock.advance(0.2)
    assert await reads.read(pin=True) == found("a")


@asynchronous
async def test_a_digest_to_pin_is_never_an_earlier_one() -> None:
    reads = Reads()
    await reads.create("a")
    assert await reads.read(pin=False) == found("a")
    await reads.create("b")
    assert await reads.read(pin=False) == found("a"), "a hint may be some seconds old"
    assert await reads.read(pin=True) == found("b")


@asynchronous
async def test_another_config_map_and_a_forgotten_model_are_read_at_once() -> None:
    reads = Reads()
    assert await reads.read(pin=True) == MISSING
    await reads.create("b", "fraud-v2")
    assert await reads.read(pin=True, name="fraud-v2") == found("b")
    assert await reads.read(pin=True) == MISSING
    await reads.create("a")
    reads.config_maps.forget(KEY)
    assert await reads.read(pin=True) == found("a")


@asynchronous
async def test_an_error_is_bounded_and_not_a_missing_config_map() -> None:
    reads = Reads()
    await reads.create("a")
    reads.api.refusals["get", "configmaps", "fraud-v1"] = ApiError(500, "Internal", "x" * 5000)
    result = await reads.read(pin=True)
    assert (result.missing, result.files_sha256, len(result.error)) == (False, "", 200)
    reads.api.refusals.clear()
    await reads.clock.advance(READ_SECONDS)
    reads.api.objects[CONFIG_MAPS, KEY[0], "fraud-v1"]["binaryData"] = {"model": "%"}
    assert (await reads.read(pin=True)).error == "a value of binaryData is not base64"
