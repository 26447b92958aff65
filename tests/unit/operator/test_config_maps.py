"""How often the ConfigMap of a model is read, and when an earlier result is used."""

from __future__ import annotations

from mlmodel_operator.config_maps import READ_SECONDS, ConfigMapRead, ConfigMaps
from mlmodel_operator.observe import MAX_TEXT, files_digest
from mlmodel_operator.runtime.api import ApiError
from mlmodel_operator.runtime.resource import CONFIG_MAPS, Body
from tests.unit.operator.runtime.support import FakeClock, MemoryApi, asynchronous

KEY = ("bank", "fraud")
MISSING = ConfigMapRead(missing="fraud-v1")


class Reads:
    """ConfigMaps of an API server in memory."""

    def __init__(self) -> None:
        self.api, self.clock = MemoryApi(), FakeClock()
        self.config_maps = ConfigMaps(self.api, self.clock)

    async def create(self, content: str, name: str = "fraud-v1") -> None:
        meta = {"namespace": KEY[0], "name": name}
        self.api.objects.pop((CONFIG_MAPS, KEY[0], name), None)
        await self.api.create(CONFIG_MAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, **data(content)})

    async def to_pin(self, name: str = "fraud-v1") -> ConfigMapRead:
        return await self.config_maps.read_to_pin(KEY, name)

    async def for_pods(self, *pods: str) -> ConfigMapRead:
        return await self.config_maps.read_for_pods(KEY, "fraud-v1", pods)

    def count(self) -> int:
        return [verb for verb, _, _ in self.api.calls].count("get")


def data(content: str) -> Body:
    return {"data": {"mlmodel.json": content}}


def found(content: str) -> ConfigMapRead:
    return ConfigMapRead(files_digest(data(content)))


@asynchronous
async def test_a_missing_config_map_is_read_again_after_some_seconds() -> None:
    reads = Reads()
    assert await reads.to_pin() == MISSING
    await reads.create("a")
    await reads.clock.advance(READ_SECONDS - 0.1)
    assert await reads.to_pin() == MISSING
    assert reads.count() == 1
    await reads.clock.advance(0.2)
    assert await reads.to_pin() == found("a")


@asynchronous
async def test_a_digest_to_pin_is_never_an_earlier_one() -> None:
    reads = Reads()
    await reads.create("a")
    assert await reads.for_pods("one") == found("a")
    assert await reads.to_pin() == found("a")
    await reads.create("b")
    assert await reads.to_pin() == found("b")
    await reads.create("c")
    assert await reads.to_pin() == found("c")


@asynchronous
async def test_the_config_map_of_the_same_waiting_pods_is_read_once() -> None:
    reads = Reads()
    for _ in range(3):
        assert await reads.for_pods("one", "two") == MISSING
        await reads.clock.advance(60.0)
    assert reads.count() == 1
    await reads.create("a")
    assert await reads.for_pods("two") == found("a")


@asynchronous
async def test_another_config_map_and_a_forgotten_model_are_read_at_once() -> None:
    reads = Reads()
    assert await reads.to_pin() == MISSING
    await reads.create("b", "fraud-v2")
    assert await reads.to_pin("fraud-v2") == found("b")
    assert await reads.to_pin() == MISSING
    await reads.create("a")
    reads.config_maps.forget(KEY)
    assert await reads.to_pin() == found("a")


@asynchronous
async def test_an_error_is_bounded_and_not_a_missing_config_map() -> None:
    reads = Reads()
    await reads.create("a")
    reads.api.refusals["get", "configmaps", "fraud-v1"] = ApiError(500, "Internal", "x" * 5000)
    result = await reads.to_pin()
    assert (result.missing, result.files_sha256, len(result.error)) == ("", "", MAX_TEXT)
    reads.api.refusals.clear()
    await reads.clock.advance(READ_SECONDS)
    reads.api.objects[CONFIG_MAPS, KEY[0], "fraud-v1"]["binaryData"] = {"model": "%"}
    assert (await reads.to_pin()).error == "a value of binaryData is not base64"
