"""``make demo`` on its own cluster."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from hack import ROOT

pytestmark = pytest.mark.cluster


def test_the_demo_has_the_expected_outcomes_and_leaves_nothing_behind() -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("KEEP", "MAKEFLAGS", "MAKELEVEL")}
    done = subprocess.run(["make", "demo"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    print(done.stdout[-4000:])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    rows = re.findall(r"^(v\d) +(\w[\w ]*?) {2,}([\d.]+) +(\d+) +(\d+)$", done.stdout, re.MULTILINE)
    assert [(version, outcome, failed) for version, outcome, _, _, failed in rows] == [
        ("v1", "serving", "0"),
        ("v2", "promoted", "0"),
        ("v3", "rejected", "0"),
        ("v5", "rejected", "0"),
        ("v3", "rolled back", "0"),
        ("v4", "rejected", "0"),
        ("v2", "ready at once", "0"),
    ]
    assert "tumour   Stable" in done.stdout or "tumour   Draining" in done.stdout
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "hack.cluster.keeper demo" not in listed
