"""What makes thousands of unit tests cheap: one thread for each prediction, and no garbage to look for in modules."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator

import pytest

# As in a worker of the server. Two processes run the tests on two cores: more threads only wait for each other.
# Set before numpy is imported.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while the modules are imported, and then leave out what lives as long as the process."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()
