"""The lock files match pyproject.toml, and the check reports it if they do not."""

from __future__ import annotations

import tomllib

import pytest

from hack import ROOT, lock

PYPROJECT = """
[build-system]
requires = ["hatchling"]
[project]
name = "mlmodel"
[project.optional-dependencies]
core = ["numpy>=2"]
operator = ["kopf>=1"]
pytorch = ["torch>=2"]
tensorflow = ["tensorflow-cpu>=2"]
server = ["mlmodel[core]", "onnx>=1"]
dev = ["mlmodel[operator,server]", "pytest>=8"]
"""


def locked(pyproject: str = PYPROJECT, **versions: str) -> dict[str, str]:
    """Lock files of a pyproject.toml, with one package in each."""
    return {
        name: lock.header(lock.requirements(pyproject, name))
        + f"numpy=={versions.get(name.replace('-', '_'), '2.4')} \\\n    --hash=sha256:00\n"
        for name in lock.LOCKS
    }


def test_requirements_include_those_of_nested_extras() -> None:
    assert lock.requirements(PYPROJECT, "server") == ["numpy>=2", "onnx>=1"]
    assert lock.requirements(PYPROJECT, "server-pytorch") == ["numpy>=2", "onnx>=1", "torch>=2"]
    assert lock.requirements(PYPROJECT, "build") == ["editables", "hatchling", "pip"]
    assert {"kopf>=1", "onnx>=1", "pytest>=8", "hatchling"} <= set(lock.requirements(PYPROJECT, "dev"))


def test_matching_locks_have_no_problem() -> None:
    assert lock.problems(PYPROJECT, locked()) == []


def test_a_changed_requirement_outdates_only_the_locks_that_contain_it() -> None:
    found = lock.problems(PYPROJECT.replace("kopf>=1", "kopf>=1.45"), locked())
    assert [sentence.split()[0] for sentence in found] == ["requirements/dev.txt", "requirements/operator.txt"]
    assert all("run make lock" in sentence for sentence in found)


def test_other_tables_of_pyproject_do_not_outdate_the_locks() -> None:
    assert lock.problems(PYPROJECT + "[tool.ruff]\nline-length = 1\n", locked()) == []


def test_a_missing_lock_is_a_problem() -> None:
    locks = locked()
    del locks["operator"]
    assert lock.problems(PYPROJECT, locks) == ["requirements/operator.txt does not match pyproject.toml: run make lock"]


def test_a_lock_of_an_image_with_other_versions_than_the_tests_is_a_problem() -> None:
    (found,) = lock.problems(PYPROJECT, locked(server="2.3"))
    assert found.startswith("requirements/server.txt and requirements/dev.txt lock different versions of numpy")


@pytest.mark.parametrize("line", ["--index-url https://index.example/simple", "--find-links /wheels"])
def test_a_lock_that_names_an_index_is_a_problem(line: str) -> None:
    locks = locked()
    locks["dev"] += line + "\n"
    assert lock.problems(PYPROJECT, locks) == ["requirements/dev.txt names a package index: remove the address"]


def test_every_locked_package_has_a_hash() -> None:
    for path in lock.FOLDER.glob("*.txt"):
        text = path.read_text("utf-8")
        blocks = [block for block in text.replace("\\\n", "").splitlines() if not block.startswith("#")]
        assert blocks
        assert all("--hash=sha256:" in block for block in blocks), path.name


def test_the_locks_start_at_the_oldest_supported_python() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["requires-python"].startswith(f">={lock.PYTHON},")
