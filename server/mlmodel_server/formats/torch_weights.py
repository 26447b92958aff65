"""Check the weights of an exported PyTorch program against the bytes that the file has for them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mlmodel_server.formats.torch_program import Refuse

_RECORD = re.compile(r"(?:weight|tensor)_\d+")


def checked_weights(text: bytes, records: Mapping[str, int], refuse: Refuse) -> tuple[bytes, set[str]]:
    """Return the description of weights, and the records that it needs; ``records`` has the bytes of each record.

    torch allocates what the description declares, and runs what a record with ``use_pickle`` contains.
    """
    config = json.loads(text)
    entries = config.get("config") if isinstance(config, dict) else None
    if not isinstance(entries, dict):
        raise refuse("a damaged description of weights")
    for name, entry in entries.items():
        if not isinstance(name, str) or not isinstance(entry, dict):
            raise refuse("a damaged description of weights")
        path, meta = entry.get("path_name"), entry.get("tensor_meta")
        if entry.get("use_pickle") is not False:
            raise refuse("a pickle")
        if (
            not isinstance(path, str)
            or not _RECORD.fullmatch(path)
            or path not in records
            or not isinstance(meta, dict)
        ):
            raise refuse("weights that are not tensors")
        if _elements(meta, refuse) > records[path]:
            raise refuse("weights that are larger than the file")
    return json.dumps({"config": entries}).encode(), {entry["path_name"] for entry in entries.values()}


def _elements(meta: dict[str, Any], refuse: Refuse) -> int:
    count = 1
    for size in meta.get("sizes") or ():
        value = size.get("as_int") if isinstance(size, dict) and len(size) == 1 else None
        if type(value) is not int or value < 0:
            raise refuse("weights of a variable size")
        count *= value
    return count
