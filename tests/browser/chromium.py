"""The browser of the tests: Chromium of Debian, headless and without connections to other hosts."""

from __future__ import annotations

import pytest

from hack.cluster import doctor

FLAGS = (
    "--no-sandbox",  # root cannot use the sandbox
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP *.test 127.0.0.1",  # other sites, for tests of what they can do
)
PACKAGES = ("chromium", "fonts-dejavu-core")


def executable() -> str:
    """Return the path of Chromium, after `apt-get install` if possible; else skip the test."""
    found = doctor.find("chromium", *PACKAGES)
    if found is None:
        pytest.skip(f"Chromium is missing: apt-get install {' '.join(PACKAGES)}")
    return found
