"""A package as an immutable ConfigMap: a small model needs no storage and can be kept in Git."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

from mlmodel_server import manifest
from mlmodel_server.errors import MLModelError, UsageError
from mlmodel_server.loading.signing import SIGNATURE
from mlmodel_server.loading.sources import Local
from mlmodel_server.loading.sources.entry import MLFLOW, SAVED_MODEL
from mlmodel_server.manifest import MANIFEST

MAX_CONFIG_MAP = 1 << 20
"""Bytes that the API server accepts for all values together."""

CLIENT_SIDE_APPLY = 262_144
"""Bytes that annotations may have: plain ``kubectl apply`` copies the whole object into one."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")


def config_map(directory: Path, name: str) -> str:
    """Return the YAML of a ConfigMap called ``name`` with the package, or the bare model file, in ``directory``.

    Raise :class:`UsageError` if it does not fit into a ConfigMap, or if the directory has no model.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot name a ConfigMap: use lower-case letters, digits and '-', such as fraud-v1")
    files = _files(directory)
    size = sum(map(len, files.values()))
    if size > MAX_CONFIG_MAP:
        raise UsageError(
            f"the package has {size:,} bytes, but a ConfigMap holds {MAX_CONFIG_MAP:,}: save it with compress=9, "
            f"or put the directory on a volume (pvc://CLAIM/PATH) or a web server (https://)"
        )
    lines = ["apiVersion: v1", "kind: ConfigMap", "metadata:", f"  name: {name}", "immutable: true", "binaryData:"]
    for file in sorted(files):
        lines += [f"  {json.dumps(file)}: {base64.b64encode(files[file]).decode()}"]
    text = "\n".join(lines) + "\n"
    if len(text) > CLIENT_SIDE_APPLY - 1024:
        return "# Too large for the annotation of a plain apply: use kubectl apply --server-side -f FILE\n" + text
    return text


def _files(directory: Path) -> dict[str, bytes]:
    try:
        described = directory / MANIFEST
        if described.is_file():
            names = [MANIFEST, *manifest.parse(described.read_bytes()).files]
            if (directory / SIGNATURE).is_file():
                names.append(SIGNATURE)
        else:
            names = [_only_model(directory)]
        files = {name: (directory / name).read_bytes() for name in names}
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}: give the directory of a package") from None
    for name in files:
        if not _KEY.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot be a key of a ConfigMap, which has no folders: put the directory on a volume "
                f"(pvc://CLAIM/PATH) or pack it and put it on a web server (https://)"
            )
    return files


def _only_model(directory: Path) -> str:
    try:
        entry = Local(directory).entry
    except MLModelError:
        entry = ""
    if not entry or entry in (MLFLOW, SAVED_MODEL):
        raise UsageError(f"{directory} is not a package: write one with package.save, or keep one model file in it")
    return entry
