"""skops, whose nodes check the state of a compiled object before the object reads it.

Compiled objects read their state without a check. skops passes it on as the file has it, and the audit sees only what
the object became.
"""

from __future__ import annotations

from typing import Any

from skops import io as skops
from skops.io import _audit, _general, _sklearn
from skops.io._protocol import PROTOCOL

from mlmodel_server.loading import rebuild
from mlmodel_server.loading.named import Named, resolve
from mlmodel_server.registry.entry import empty


class _Object(_general.ObjectNode):  # type: ignore[misc]
    def _construct(self) -> Any:
        kind = resolve(Named(self.module_name, self.class_name))
        if self.attrs is not None:
            rebuild.check_state(kind.__new__(kind), self.attrs.construct())
        return super()._construct()


class _Tree(_sklearn.TreeNode):  # type: ignore[misc]
    def _construct(self) -> Any:
        rebuild.check_state(rebuild.tree(*self.args.construct()), self.attrs.construct())
        return super()._construct()


class _Loss(_sklearn.LossNode):  # type: ignore[misc]
    def _construct(self) -> Any:
        rebuild.of_numbers(*self.args.construct())
        empty(self.attrs.construct())
        return super()._construct()


def untrusted(data: bytes) -> list[str]:
    """Return the names of types that skops does not trust."""
    return skops.get_untrusted_types(data=data)  # type: ignore[no-any-return]


def loads(data: bytes, trusted: list[str]) -> Any:
    """Return the model in ``data``."""
    return skops.loads(data, trusted=trusted)


_audit.NODE_TYPE_MAPPING |= {
    ("ObjectNode", PROTOCOL): _Object,
    ("TreeNode", PROTOCOL): _Tree,
    ("LossNode", PROTOCOL): _Loss,
}
