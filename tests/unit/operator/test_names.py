"""Names and ports are declared only in names.py."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import mlmodel_operator
from mlmodel_operator import names

PACKAGE = Path(mlmodel_operator.__file__).parent
DECLARED = {
    value
    for key, declared in vars(names).items()
    if key.isupper()
    for value in (declared if isinstance(declared, tuple) else (declared,))
} - {
    names.KIND,  # also plain words
    names.PROJECT,
    names.SERVER,
    names.ROUTER,
    names.VERSION,
    names.SERVICE_PORT,  # also a plain number
}


def literals(path: Path) -> Iterator[object]:
    """Yield every string and number in a module, and the parts of f-strings."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant):
            yield node.value


def test_no_other_module_writes_a_declared_name_or_port() -> None:
    assert {"mlmodel.dev/model", "mlmodel-operator", 8080, 8081, 9000, 9090, 9091} <= DECLARED
    found = {
        (str(path.relative_to(PACKAGE)), value)
        for path in PACKAGE.rglob("*.py")
        if path.name != "names.py"
        for value in literals(path)
        if value in DECLARED or (isinstance(value, str) and value.startswith(f"{names.GROUP}/"))
    }
    assert found == set()


def test_labels_and_annotations_have_our_prefix_or_the_standard_one() -> None:
    for key, value in vars(names).items():
        if key.endswith(("_LABEL", "_ANNOTATION")):
            assert value.startswith(("mlmodel.dev/", "app.kubernetes.io/")), key
