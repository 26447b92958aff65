"""Reads the ConfigMap of a model while a candidate waits for it, and never more often than its caller may poll."""

from __future__ import annotations

from dataclasses import dataclass

from mlmodel_operator.observe import clean, files_digest
from mlmodel_operator.runtime.api import Api, ApiError
from mlmodel_operator.runtime.clock import Clock
from mlmodel_operator.runtime.resource import CONFIG_MAPS

READ_SECONDS = 5.0
"""Time for which a result is used again. No watch: the operator would have to cache every ConfigMap of the cluster."""


@dataclass(frozen=True)
class ConfigMapRead:
    """What a read found: the digest of the files, the name if it does not exist, or why it cannot be read."""

    files_sha256: str = ""
    missing: str = ""
    error: str = ""


NOT_READ = ConfigMapRead()


@dataclass(frozen=True)
class _Last:
    """The last read for a model."""

    name: str
    pods: tuple[str, ...]
    at: float
    found: ConfigMapRead


class ConfigMaps:
    """Belongs to the controller. A model needs one ConfigMap at a time."""

    def __init__(self, api: Api, clock: Clock) -> None:
        self._api, self._clock = api, clock
        self._last: dict[tuple[str, str], _Last] = {}

    async def read_to_pin(self, key: tuple[str, str], name: str) -> ConfigMapRead:
        """Read the ConfigMap ``name`` of the model ``key`` (namespace, name), for a revision without a Deployment.

        A result of the last ``READ_SECONDS`` is returned again, but never a digest: a new revision gets the files of
        this moment.
        """
        last = self._last.get(key)
        if last is None or (last.name, last.pods) != (name, ()) or self._clock.now() >= last.at + READ_SECONDS:
            return await self._read(key, name)
        return await self._read(key, name) if last.found.files_sha256 else last.found

    async def read_for_pods(self, key: tuple[str, str], name: str, pods: tuple[str, ...]) -> ConfigMapRead:
        """Read the ConfigMap ``name`` for which these pods wait, once: kubelet mounts it when it exists, and then the
        pods change."""
        last = self._last.get(key)
        if last is not None and (last.name, last.pods) == (name, pods):
            return last.found
        return await self._read(key, name, pods)

    def forget(self, key: tuple[str, str]) -> None:
        """Drop the last result of a model that needs no ConfigMap."""
        self._last.pop(key, None)

    async def _read(self, key: tuple[str, str], name: str, pods: tuple[str, ...] = ()) -> ConfigMapRead:
        found = await self._get(key[0], name)
        self._last[key] = _Last(name, pods, self._clock.now(), found)
        return found

    async def _get(self, namespace: str, name: str) -> ConfigMapRead:
        try:
            return ConfigMapRead(files_digest(await self._api.get(CONFIG_MAPS, namespace, name)))
        except ApiError as error:
            return ConfigMapRead(missing=name) if error.not_found else ConfigMapRead(error=clean(error.message))
        except ValueError:
            return ConfigMapRead(error="a value of binaryData is not base64")
