"""The memory of a container, by cgroup v1 and v2, and the share of requests in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlmodel_server.startup.memory import LEAST, MOST, budget, limit, used

MIB, GIB = 1 << 20, 1 << 30


def machine(root: Path, cgroup: str, **files: str) -> tuple[Path, Path]:
    """Return /proc and /sys/fs/cgroup of a machine with 16 GiB; ``files`` by path, with ``__`` for a slash."""
    proc, mount = root / "proc", root / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal:       {16 << 20} kB\nMemFree: 1 kB\n")
    (proc / "self" / "cgroup").write_text(cgroup)
    mount.mkdir()
    for name, text in files.items():
        path = mount / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return proc, mount


@pytest.mark.parametrize(
    ("cgroup", "files", "found"),
    [
        ("0::/\n", {"memory_DOT_max": f"{GIB}\n"}, GIB),
        ("0::/\n", {"memory_DOT_max": "max\n"}, 16 * GIB),
        ("0::/\n", {}, 16 * GIB),
        ("", {}, 16 * GIB),
        ("0::/a/b\n", {"a__memory_DOT_max": f"{GIB}\n", "a__b__memory_DOT_max": "max\n"}, GIB),
        ("0::/a/b\n", {"a__memory_DOT_max": f"{2 * GIB}\n", "a__b__memory_DOT_max": f"{GIB}\n"}, GIB),
        ("0::/not/mounted\n", {"memory_DOT_max": f"{GIB}\n"}, GIB),
        ("4:memory:/x\n0::/\n", {"memory__memory_DOT_limit_in_bytes": f"{GIB}\n"}, GIB),
        ("4:memory:/x\n", {"memory__x__memory_DOT_limit_in_bytes": f"{GIB}\n"}, GIB),
        ("4:cpu,memory:/x\n", {"memory__x__memory_DOT_limit_in_bytes": f"{GIB}\n"}, GIB),
        ("4:memory:/x\n", {"memory__memory_DOT_limit_in_bytes": "9223372036854771712\n"}, 16 * GIB),
        ("0::/\n", {"memory_DOT_max": f"{64 * GIB}\n"}, 16 * GIB),
    ],
)
def test_the_lowest_limit_counts(tmp_path: Path, cgroup: str, files: dict[str, str], found: int) -> None:
    assert limit(*machine(tmp_path, cgroup, **files)) == found


def test_the_memory_of_this_process_is_known() -> None:
    assert 10 * MIB < used() < 100 * GIB


def test_requests_get_a_share_of_what_the_model_leaves() -> None:
    assert budget(16 * GIB, GIB, 1, 8 * MIB) == MOST
    assert budget(512 * MIB, 312 * MIB, 1, 8 * MIB) == 50 * MIB
    assert budget(512 * MIB, 312 * MIB, 2, 8 * MIB) == 25 * MIB, "the workers share it"
    assert budget(512 * MIB, 312 * MIB, 50, 8 * MIB) == LEAST


def test_a_model_that_leaves_nothing_is_served() -> None:
    assert budget(512 * MIB, 511 * MIB, 1, 8 * MIB) == LEAST
    assert budget(512 * MIB, 600 * MIB, 4, 8 * MIB) == LEAST


def test_a_large_body_has_room_if_there_is_any() -> None:
    assert budget(512 * MIB, 412 * MIB, 1, 40 * MIB) == 40 * MIB
    assert budget(512 * MIB, 412 * MIB, 1, 400 * MIB) == 50 * MIB
