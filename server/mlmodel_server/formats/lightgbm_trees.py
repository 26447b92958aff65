"""Check a LightGBM model before LightGBM parses it: LightGBM does not check indices and could crash."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mlmodel_server.formats.trees import OUT_OF_RANGE, Damaged, check_branches, check_indices, check_lengths, whole
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
    """Raise ValueError unless ``text`` is a sound model."""
    head, _, trees = text.partition("\n\n")
    header = _fields(head)
    try:
        width = whole(header["max_feature_idx"], 0, MAX_FEATURES) + 1
        check_lengths(width, header["feature_names"].split(" "), header["feature_infos"].split(" "))
        sizes = [whole(size) for size in header["tree_sizes"].split()]
        per_round = whole(header["num_tree_per_iteration"], 1, MAX_GROUPS)
        if whole(header["num_class"], 1, MAX_GROUPS) > per_round or len(sizes) % per_round:
            raise Damaged("it has a number of trees that does not fit its classes")
        for tree in _blocks(trees, sizes):
            _check_tree(tree, width)
    except KeyError as error:
        raise Damaged(f"it lacks {str(error)[:40]}") from None


def _fields(text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, separator, value in (line.partition("=") for line in text.splitlines()):
        if separator and name in fields:
            raise Damaged(f"it has {name[:40]!r} twice")
        if separator:
            fields[name] = value
    return fields


def _blocks(text: str, sizes: list[int]) -> Iterator[dict[str, str]]:
    """Yield the trees, which LightGBM cuts out of the text by their sizes in bytes."""
    data, at = text.encode("utf-8"), 0
    for index, size in enumerate(sizes):
        block = data[at : at + size]
        if len(block) != size or not block.startswith(b"Tree=%d\n" % index) or b"\nTree=" in block:
            raise Damaged("it has a tree of another size than its header lists")
        yield _fields(block.decode("utf-8"))
        at += size
    if b"\nTree=" in data[at:] or data[at:].startswith(b"Tree="):
        raise Damaged("it has more trees than its header lists")


def _check_tree(tree: dict[str, str], width: int) -> None:
    leaves = whole(tree["num_leaves"], 1)
    check_lengths(leaves, *(_numbers(tree, name) for name in _PER_LEAF if leaves > 1 or name == "leaf_value"))
    whole(tree.get("num_cat", "0"), 0, leaves)
    if leaves > 1:
        _check_splits(tree, leaves, width)
    if tree.get("is_linear", "0").strip() == "1":
        counts = _integers(tree, "num_features")
        check_lengths(leaves, counts, _numbers(tree, "leaf_const"))
        check_lengths(int(counts.sum()), _integers(tree, "leaf_features"), _numbers(tree, "leaf_coeff"))
        check_indices(counts, width + 1)
        check_indices(_integers(tree, "leaf_features"), width)


def _check_splits(tree: dict[str, str], leaves: int, width: int) -> None:
    check_lengths(leaves - 1, *(_numbers(tree, name) for name in _PER_SPLIT))
    check_indices(_integers(tree, "split_feature"), width)
    children = np.concatenate((_integers(tree, "left_child"), _integers(tree, "right_child")))
    check_branches(children[children >= 0], leaves - 1)
    check_indices(~children[children < 0], leaves)
    by_category = (_integers(tree, "decision_type") & _CATEGORICAL) != 0
    if by_category.any():
        sets = whole(tree["num_cat"])
        bounds, members = _integers(tree, "cat_boundaries"), _numbers(tree, "cat_threshold")
        check_lengths(sets + 1, bounds)
        if bounds[0] != 0 or (np.diff(bounds) < 0).any() or bounds[-1] != len(members):
            raise Damaged(OUT_OF_RANGE)
        check_indices(_numbers(tree, "threshold")[by_category].astype(np.int64), sets)


def _numbers(tree: dict[str, str], name: str) -> Array:
    return np.array([_number(text) for text in tree[name].split()], np.float64)


def _integers(tree: dict[str, str], name: str) -> Array:
    return np.array([whole(text, -(1 << 31)) for text in tree[name].split()], np.int64)


def _number(text: Any) -> float:
    try:
        return float(text)
    except ValueError:
        raise Damaged("it has text instead of a number") from None
