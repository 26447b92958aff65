"""Thread counts follow the container's limit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlmodel_server import cpu

AVAILABLE = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("content", "expected"),
    [("100000 100000", 1), ("50000 100000", 1), ("150000 100000", min(2, AVAILABLE)), ("max 100000", AVAILABLE)],
)
def test_cgroup_v2(tmp_path: Path, content: str, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(content + "\n")
    assert cpu.limit(tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", AVAILABLE), ("100000", 1), ("20000", 1)])
def test_cgroup_v1(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota + "\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cpu.limit(tmp_path) == expected


def test_without_cgroups_it_is_what_the_process_may_use(tmp_path: Path) -> None:
    assert cpu.limit(tmp_path) == AVAILABLE


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    monkeypatch.setenv("MKL_NUM_THREADS", "5")
    cpu.restrict()
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert os.environ["OPENBLAS_NUM_THREADS"] == str(cpu.limit())
