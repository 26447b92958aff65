"""The reference page of the MLModel, generated from the API types: ``python -m mlmodel_operator.api.reference``."""

from __future__ import annotations

from typing import Any

from .crd import crd

_HEAD = """# MLModel

Generated from `operator/mlmodel_operator/api` by `make generate`; `kubectl explain mlmodel.spec` shows it too.

`apiVersion: mlmodel.dev/v1alpha1`, `kind: MLModel`, short name `mlm`. The name has at most 40 characters. Only
`spec.model.uri` is required. A change below `spec.model` or `spec.serving.resources` is a new revision and is rolled
out; everything else takes effect at once and restarts nothing.

"""

_CONDITIONS = """
## Conditions

| condition | true when | else |
|---|---|---|
| `Ready` | what the spec asks for serves, with all its pods | `Unknown` in a rollout, `False` after a rollback |
| `Available` | some version answers at `status.url` | |
| `Reconciling` | something is on its way (kstatus) | |
| `Stalled` | it cannot go on without a change of the spec (kstatus) | |
| `RolledBack` | the version in the spec was rolled back; the reason is beside it | |
| `Paused` | `spec.rollout.paused` is set | |
"""


def page() -> str:
    """The page as Markdown."""
    properties = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    sections = [_HEAD]
    for part in ("spec", "status"):
        sections.append(f"## {part}\n\n| field | type | |\n|---|---|---|\n")
        sections += [f"| `{path}` | {kind} | {text} |\n" for path, kind, text in _rows(part, properties[part])]
        sections.append("\n")
    return "".join(sections).rstrip("\n") + "\n" + _CONDITIONS


def _rows(path: str, schema: dict[str, Any]) -> list[tuple[str, str, str]]:
    rows = []
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        item = field.get("items", {})
        kind = field.get("type", "quantity")
        if "enum" in field:
            kind = " or ".join(field["enum"])
        elif item:
            kind = f"list of {item.get('type', 'quantity')}"
        rows.append((here, kind, field.get("description", "")))
        if item.get("properties"):
            rows += _rows(f"{here}[]", item)
        elif field.get("properties") and not here.endswith((".snapshot", ".ledger", ".counted")):
            rows += _rows(here, field)
    return rows


if __name__ == "__main__":
    print(page(), end="")
