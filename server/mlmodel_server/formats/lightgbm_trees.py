"""A look at a LightGBM model before LightGBM parses it: it follows what it reads, also into a crash."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mlmodel_server.formats.trees import Damaged, as_long, branching, whole, within
from mlmodel_server.tensors import Array

MAX_FEATURES = 10_000_000
MAX_GROUPS = 100_000

_PER_SPLIT = (
    "split_feature", "split_gain", "threshold", "decision_type", "left_child", "right_child", "internal_value",
    "internal_weight", "internal_count",
)  # fmt: skip
_PER_LEAF = ("leaf_value", "leaf_weight", "leaf_count")
_CATEGORICAL = 1  # in decision_type


def check_text(text: str) -> None:
    """ValueError unless ``text`` is a sound model."""
    head, _, trees = text.partition("\n\n")
    header = _fields(head)
    try:
        width = whole(header["max_feature_idx"], 0, MAX_FEATURES) + 1
        as_long(width, header["feature_names"].split(" "), header["feature_infos"].split(" "))
        sizes = [whole(size) for size in header["tree_sizes"].split()]
        per_round = whole(header["num_tree_per_iteration"], 1, MAX_GROUPS)
        if whole(header["num_class"], 1, MAX_GROUPS) > per_round or len(sizes) % per_round:
            raise Damaged("it has trees of other classes")
        for tree in _blocks(trees, sizes):
            _check_tree(tree, width)
    except KeyError as error:
        raise Damaged(f"it lacks {str(error)[:40]}") from None


def _fields(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, separator, value in (line.partition("=") for line in text.splitlines()):
        if separator and name in found:
            raise Damaged(f"it has {name[:40]!r} twice")
        if separator:
            found[name] = value
    return found


def _blocks(text: str, sizes: list[int]) -> Iterator[dict[str, str]]:
    """The trees, which LightGBM cuts out of the text by their sizes in bytes."""
    data, at = text.encode("utf-8"), 0
    for index, size in enumerate(sizes):
        block = data[at : at + size]
        if len(block) != size or not block.startswith(b"Tree=%d\n" % index) or b"\nTree=" in block:
            raise Damaged("it has trees of other sizes than it says")
        yield _fields(block.decode("utf-8"))
        at += size
    if b"\nTree=" in data[at:] or data[at:].startswith(b"Tree="):
        raise Damaged("it has more trees than it says")


def _check_tree(tree: dict[str, str], width: int) -> None:
    leaves = whole(tree["num_leaves"], 1)
    as_long(leaves, *(_numbers(tree, name) for name in _PER_LEAF if leaves > 1 or name == "leaf_value"))
    whole(tree.get("num_cat", "0"), 0, leaves)
    if leaves > 1:
        _check_splits(tree, leaves, width)
    if tree.get("is_linear", "0").strip() == "1":
        counts = _integers(tree, "num_features")
        as_long(leaves, counts, _numbers(tree, "leaf_const"))
        as_long(int(counts.sum()), _integers(tree, "leaf_features"), _numbers(tree, "leaf_coeff"))
        within(counts, width + 1)
        within(_integers(tree, "leaf_features"), width)


def _check_splits(tree: dict[str, str], leaves: int, width: int) -> None:
    as_long(leaves - 1, *(_numbers(tree, name) for name in _PER_SPLIT))
    within(_integers(tree, "split_feature"), width)
    children = np.concatenate((_integers(tree, "left_child"), _integers(tree, "right_child")))
    branching(children[children >= 0], leaves - 1)
    within(~children[children < 0], leaves)
    by_category = (_integers(tree, "decision_type") & _CATEGORICAL) != 0
    if by_category.any():
        sets = whole(tree["num_cat"])
        bounds, members = _integers(tree, "cat_boundaries"), _numbers(tree, "cat_threshold")
        as_long(sets + 1, bounds)
        if bounds[0] != 0 or (np.diff(bounds) < 0).any() or bounds[-1] != len(members):
            raise Damaged("it has a tree that reads outside itself")
        within(_numbers(tree, "threshold")[by_category].astype(np.int64), sets)


def _numbers(tree: dict[str, str], name: str) -> Array:
    return np.array([_number(text) for text in tree[name].split()], np.float64)


def _integers(tree: dict[str, str], name: str) -> Array:
    return np.array([whole(text, -(1 << 31)) for text in tree[name].split()], np.int64)


def _number(text: Any) -> float:
    try:
        return float(text)
    except ValueError:
        raise Damaged("it has text in place of a number") from None
