"""The browser of the tests: Debian's Chromium, without a screen and without a word to anybody but the page's server."""

from __future__ import annotations

import pytest

from hack.cluster import doctor

FLAGS = (
    "--no-sandbox",  # root has none
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PACKAGES = ("chromium", "fonts-dejavu-core")


def executable() -> str:
    """Its path, after installing it where that is one `apt-get` away; the test is skipped where it is not."""
    found = doctor.find("chromium", *PACKAGES)
    if found is None:
        pytest.skip(f"Chromium is missing: apt-get install {' '.join(PACKAGES)}")
    return found
