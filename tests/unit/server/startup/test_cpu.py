"""The number of processes and threads follows the CPU limit of the container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlmodel_server.startup import cpu

AVAILABLE = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("content", "expected"),
    [("100000 100000", 1), ("50000 100000", 1), ("150000 100000", min(2, AVAILABLE)), ("max 100000", None)],
)
def test_cgroup_v2(tmp_path: Path, content: str, expected: int | None) -> None:
    (tmp_path / "cpu.max").write_text(content + "\n")
    assert cpu.quota(tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", None), ("100000", 1), ("20000", 1)])
def test_cgroup_v1(tmp_path: Path, quota: str, expected: int | None) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota + "\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cpu.quota(tmp_path) == expected


def test_without_cgroups_there_is_no_limit(tmp_path: Path) -> None:
    assert cpu.quota(tmp_path) is None


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(variable, "")  # so that monkeypatch restores it
        monkeypatch.delenv(variable)


@pytest.mark.parametrize(
    ("workers", "limit", "threads"), [(1, None, 1), (4, None, 1), (4, 4, 1), (1, 4, 4), (2, 4, 2), (3, 4, 1)]
)
@pytest.mark.usefixtures("unset")
def test_workers_share_the_limit(workers: int, limit: int | None, threads: int) -> None:
    assert cpu.restrict(workers, limit) == threads
    assert os.environ["OPENBLAS_NUM_THREADS"] == str(threads)


@pytest.mark.usefixtures("unset")
def test_variables_of_the_user_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert cpu.restrict(2, 4) == 7
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert os.environ["OPENBLAS_NUM_THREADS"] == "2"
