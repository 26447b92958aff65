"""The reference at ``/docs``: its commands work unchanged in a shell."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape

import pytest

from tests.browser.models import KEY, example, post
from tests.integration.server.processes import Server


@pytest.mark.parametrize("name", ["mixed", "iris", "keyed"])
def test_every_command_works(serve: Callable[[str], Server], name: str) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is missing: apt-get install curl")
    server = serve(name)
    document = server.send("GET", "/docs", authorization=f"Bearer {KEY}").body.decode()
    setting, *commands = [unescape(text) for text in re.findall(r"<pre[^>]*>(.*?)</pre>", document, re.DOTALL)]
    setting = setting.replace("KEY=…", f"KEY={KEY}")
    answers = []
    for command in commands:
        typed = ["bash", "-euc", f"{setting}\n{command}"]
        answers.append(json.loads(subprocess.run(typed, capture_output=True, text=True, check=True, timeout=60).stdout))
    infer, predict, split, lines, rows, feedback = answers
    expected = infer["outputs"][0]["data"]
    if name != "keyed":
        assert expected == post(server, name, example(server, name))["outputs"][0]["data"]
    assert predict == split == lines == rows == {"predictions": expected}
    assert feedback == {"scored": 1, "duplicates": 0, "unknown": 0}
