"""The built-in model is a package like any other; other names are rejected."""

from __future__ import annotations

import pytest

from mlmodel_server.errors import RefusedModel
from mlmodel_server.startup import options
from mlmodel_server.startup.assemble import read


def test_the_built_in_model_is_a_package_like_any_other() -> None:
    parsed = options.parse(["--name", "m", "--uri", "builtin://iris"])
    parsed.threads = 1
    loaded = read(parsed)
    assert loaded.manifest is not None
    assert loaded.manifest.metrics["accuracy"] > 0.9


def test_another_name_is_rejected_with_the_one_to_use() -> None:
    parsed = options.parse(["--name", "m", "--uri", "builtin://nothing"])
    parsed.threads = 1
    with pytest.raises(RefusedModel, match="built-in model 'nothing' not found: use builtin://iris"):
        read(parsed)
