"""Reads the ConfigMap of a model while a candidate waits for it, and never more often than its caller may poll."""

from __future__ import annotations

from dataclasses import dataclass

from mlmodel_operator.observe import files_digest
from mlmodel_operator.runtime.api import Api, ApiError
from mlmodel_operator.runtime.clock import Clock
from mlmodel_operator.runtime.resource import CONFIG_MAPS

READ_SECONDS = 5.0
"""Time for which a result is used again. No watch: the operator would have to cache every ConfigMap of the cluster."""

_MAX_ERROR = 200


@dataclass(frozen=True)
class ConfigMapRead:
    """What a read found: the digest of the files, that the ConfigMap does not exist, or why it cannot be read."""

    files_sha256: str = ""
    missing: bool = False
    error: str = ""


NOT_READ = ConfigMapRead()


class ConfigMaps:
    """Belongs to the controller. A model needs one ConfigMap at a time."""

    def __init__(self, api: Api, clock: Clock) -> None:
        self._api, self._clock = api, clock
        self._last: dict[tuple[str, str], tuple[str, float, ConfigMapRead]] = {}

    async def read(self, key: tuple[str, str], name: str, *, pin: bool) -> ConfigMapRead:
        """Read the ConfigMap ``name`` of the model ``key`` (namespace, name).

        A result of the last ``READ_SECONDS`` is returned again, but with ``pin`` never a digest: a new revision gets
        the files of this moment.
        """
        last = self._last.get(key)
        if last is not None:
            of, at, found = last
            if of == name and self._clock.now() < at + READ_SECONDS and not (pin and found.files_sha256):
                return found
        found = await self._read(key[0], name)
        self._last[key] = name, self._clock.now(), found
        return found

    def forget(self, key: tuple[str, str]) -> None:
        """Drop the last result of a model that needs no ConfigMap."""
        self._last.pop(key, None)

    async def _read(self, namespace: str, name: str) -> ConfigMapRead:
        try:
            return ConfigMapRead(files_digest(await self._api.get(CONFIG_MAPS, namespace, name)))
        except ApiError as error:
            return ConfigMapRead(missing=True) if error.not_found else ConfigMapRead(error=error.message[:_MAX_ERROR])
        except ValueError:
            return ConfigMapRead(error="a value of binaryData is not base64")
