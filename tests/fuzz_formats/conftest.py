"""The option of the fuzzer."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    text = "changed files of ONNX, LightGBM and XGBoost, without a limit of time (default: as many as fit into 40 s)"
    parser.getgroup("fuzz").addoption("--fuzz-artefacts", type=int, default=0, metavar="N", help=text)
