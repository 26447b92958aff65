"""The settings of object stores and registries: environment variables, or the files of a mounted Secret.

``MLMODEL_STORAGE_CREDENTIALS`` names the directory of that Secret. A file in it has the name of a variable
(``AWS_SECRET_ACCESS_KEY``) and takes precedence over it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mlmodel_server.errors import RefusedModel, UnreachableSource

DIRECTORY = "MLMODEL_STORAGE_CREDENTIALS"

_MAX_VALUE = 64 << 10


def mounted() -> dict[str, str]:
    """Return the values of the mounted Secret, by variable. No message or log line may contain one."""
    directory = os.environ.get(DIRECTORY, "")
    return _files(Path(directory)) if directory else {}


def setting(name: str, secret: Mapping[str, str]) -> str:
    """Return the value of a variable from the Secret, else from the environment, else ""."""
    return secret.get(name) or os.environ.get(name, "")


def _files(directory: Path) -> dict[str, str]:
    values = {}
    try:
        for name in sorted(os.listdir(directory)):
            path = directory / name
            if name.startswith(".") or not path.is_file():  # a mounted Secret has the directory "..data"
                continue
            with path.open("rb") as file:
                value = file.read(_MAX_VALUE + 1)
            if len(value) > _MAX_VALUE:
                raise RefusedModel(f"{name} of the storage credentials is larger than 64 KiB: put one value into it")
            values[name] = value.decode().strip()
    except OSError as error:
        raise UnreachableSource(
            f"the storage credentials cannot be read ({error.strerror}): mount the Secret at the directory that "
            f"{DIRECTORY} names"
        ) from None
    except UnicodeDecodeError:
        raise RefusedModel("the storage credentials are not text: put each value into a key of the Secret") from None
    return values
