"""Libraries that are hidden while another is imported."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlmodel_server.formats.table import _absent


def test_a_library_is_hidden_from_one_thread_and_only_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("hidden_one", "hidden_two", "shown_one"):
        (tmp_path / f"{name}.py").write_text("")
        monkeypatch.delitem(sys.modules, name, raising=False)
    with ThreadPoolExecutor(1) as other:
        with _absent(("hidden_one", "hidden_two")):
            importlib.import_module("shown_one")
            with pytest.raises(ModuleNotFoundError, match="hidden_one is not imported for this model"):
                importlib.import_module("hidden_one")
            assert other.submit(importlib.import_module, "hidden_one").result().__name__ == "hidden_one"
            importlib.import_module("hidden_one")  # it is imported already
            with pytest.raises(ImportError):
                importlib.import_module("hidden_two")
        importlib.import_module("hidden_two")
    for name in ("hidden_one", "hidden_two", "shown_one"):
        sys.modules.pop(name)
