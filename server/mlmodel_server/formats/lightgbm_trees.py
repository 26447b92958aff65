"""Read a LightGBM model by a strict grammar, check it, write it anew: LightGBM does not check indices and could crash.

LightGBM and Python read ``1_0``, ``+1``, ``٣`` or two spaces differently. So a number, a name and a line have one
spelling here, and LightGBM gets only the lines that were read. Numbers keep their digits, because LightGBM may round
other digits of the same number in another way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mlmodel_server.formats.trees import (
    MAX_FEATURES,
    MAX_GROUPS,
    OUT_OF_RANGE,
    Damaged,
    check_branches,
    check_depth,
    check_indices,
    check_lengths,
    whole,
)
from mlmodel_server.tensors import Array

_INTEGER = r"(?:0|-?[1-9][0-9]{0,9})"
_FINITE = r"-?[0-9]{1,400}(?:\.[0-9]{1,400})?(?:e[+-][0-9]{1,4})?"
_NUMBER = rf"(?:{_FINITE}|-?inf|-?nan)"
_INTEGERS = re.compile(rf"{_INTEGER}(?: {_INTEGER})*+")
_NUMBERS = re.compile(rf"{_NUMBER}(?: {_NUMBER})*+")
_INFO = re.compile(rf"none|\[{_NUMBER}:{_NUMBER}\]|-?[0-9]{{1,10}}(?::-?[0-9]{{1,10}})*+")
_NAME = re.compile(r"[^\x00-\x20\x7f]+")
_OBJECTIVE = re.compile(
    rf"(?:regression|regression_l1|huber|fair|poisson|quantile|mape|gamma|tweedie|binary|multiclass|multiclassova"
    rf"|cross_entropy|cross_entropy_lambda|lambdarank|rank_xendcg)(?: sqrt| [a-z_]{{1,40}}:{_FINITE})*+"
)

_PER_SPLIT = (
    "split_feature", "split_gain", "threshold", "decision_type", "left_child", "right_child", "internal_value",
    "internal_weight", "internal_count",
)  # fmt: skip
_PER_LEAF = ("leaf_value", "leaf_weight", "leaf_count")
_LINEAR = ("leaf_const", "num_features", "leaf_features", "leaf_coeff")
_CATEGORIES = ("cat_boundaries", "cat_threshold")
_OF_INTEGERS = frozenset(
    ("split_feature", "decision_type", "left_child", "right_child", "num_features", "leaf_features", *_CATEGORIES)
)
_HEADER = (
    "version", "num_class", "num_tree_per_iteration", "label_index", "max_feature_idx", "objective", "average_output",
    "feature_names", "monotone_constraints", "feature_infos",
)  # fmt: skip
"""The fields before the trees, in the order in which LightGBM writes them, without ``tree_sizes``."""
_TREE = ("num_leaves", "num_cat", *_PER_SPLIT, *_PER_LEAF, *_CATEGORIES, "is_linear", *_LINEAR, "shrinkage")
_CATEGORICAL, _LEFT, _MISSING = 1, 2, (0, 1, 2)  # in decision_type: two bits, and then how a missing value is spelled
_END = "end of trees"
_PANDAS = "pandas_categorical:"
_BY_CLASS = ("multiclass", "multiclassova")


def rewritten(text: str) -> str:
    """Return the model in ``text`` as it was read and checked, without its parameters of training and its importances,
    which no prediction needs. Raise ValueError for a model that is not sound."""
    head, separator, trees = text.partition("\n\n")
    header = _fields(head.removeprefix("tree\n"), (*_HEADER, "tree_sizes"))
    if not head.startswith("tree\n") or not separator:
        raise Damaged("it does not begin as a model does")
    try:
        width = whole(_integer(header, "max_feature_idx"), 0, MAX_FEATURES) + 1
        _check_header(header, width)
        sizes = [whole(size, 1) for size in _integers(header, "tree_sizes").tolist()]
        groups = whole(_integer(header, "num_tree_per_iteration"), 1, MAX_GROUPS)
        if whole(_integer(header, "num_class")) != groups or len(sizes) % groups:
            raise Damaged("it has a number of trees that does not fit its classes")
        blocks, rest = _blocks(trees, sizes)
        checked = [_checked_tree(block, width) for block in blocks]
    except KeyError as error:
        raise Damaged(f"it lacks {str(error)[:40]}") from None
    return _written(header, checked, _categories(rest))


def _check_header(header: Mapping[str, str], width: int) -> None:
    names, infos = header["feature_names"].split(" "), header["feature_infos"].split(" ")
    check_lengths(width, names, infos)
    if not all(map(_NAME.fullmatch, names)) or len(set(names)) != width or not all(map(_INFO.fullmatch, infos)):
        raise Damaged("it has a feature with an unusual or repeated name or description")
    if header["version"] not in ("v3", "v4") or header.get("average_output", "") != "":
        raise Damaged("it is of another version of LightGBM's format")
    _integer(header, "label_index")
    if "monotone_constraints" in header:
        check_lengths(width, _integers(header, "monotone_constraints"))
    objective = header.get("objective")
    if objective is not None:
        kind, *options = objective.split(" ")
        values = dict(option.partition(":")[::2] for option in options)
        if not _OBJECTIVE.fullmatch(objective) or len(values) != len(options):
            raise Damaged("it has an objective that LightGBM does not write")
        if values.get("num_class", "1") != (header["num_class"] if kind in _BY_CLASS else "1"):
            raise Damaged("it has an objective for another number of classes")
        if kind not in _BY_CLASS and header["num_class"] != "1":
            raise Damaged("it has an objective for another number of classes")


def _fields(text: str, known: tuple[str, ...]) -> dict[str, str]:
    """Return the lines ``name=value``, of which each name may occur once."""
    fields: dict[str, str] = {}
    for line in text.split("\n"):
        name, separator, value = line.partition("=")
        if name not in known or name in fields or (not separator and name != "average_output"):
            raise Damaged("it has a line that LightGBM does not write, or one twice")
        fields[name] = value
    return fields


def _blocks(text: str, sizes: list[int]) -> tuple[list[dict[str, str]], str]:
    """Return the trees, which LightGBM cuts out of the text by their sizes in bytes, and the text after them."""
    data, at, blocks = text.encode("utf-8"), 0, []
    for index, size in enumerate(sizes):
        start, end = b"Tree=%d\n" % index, b"\n\n\n"
        block = data[at : at + size]
        if not block.isascii():
            raise Damaged("it has a tree with text that LightGBM does not write")
        if len(block) != size or not block.startswith(start) or not block.endswith(end):
            raise Damaged("it has a tree of another size than its header lists")
        blocks.append(_fields(block[len(start) : -len(end)].decode("ascii"), _TREE))
        at += size
    rest = data[at:].decode("utf-8")
    if not rest.startswith(f"{_END}\n"):
        raise Damaged("it has more trees than its header lists")
    return blocks, rest


def _checked_tree(tree: dict[str, str], width: int) -> dict[str, str]:
    """Return the fields of a sound tree that LightGBM gets."""
    kept = {name: tree[name] for name in ("num_leaves", "num_cat", "leaf_value", "shrinkage")}
    leaves, sets = whole(_integer(tree, "num_leaves"), 1), whole(_integer(tree, "num_cat"))
    check_lengths(1, _numbers(tree, "shrinkage"))
    check_lengths(leaves, _numbers(tree, "leaf_value"))
    if leaves > 1:
        columns = (*_PER_SPLIT, *_PER_LEAF, *(_CATEGORIES if sets else ()))
        kept |= {name: tree[name] for name in columns}
        check_lengths(leaves, *(_numbers(tree, name) for name in _PER_LEAF))
        _check_splits(tree, leaves, sets, width)
    elif sets:
        raise Damaged("it has categories without a split")
    elif tree.get("leaf_count"):
        check_lengths(1, _numbers(tree, "leaf_count"))
        kept["leaf_count"] = tree["leaf_count"]
    if tree.get("is_linear", "0") not in ("0", "1"):
        raise Damaged("it has a tree of an unknown kind")
    kept["is_linear"] = tree.get("is_linear", "0")
    if kept["is_linear"] == "1":
        # LightGBM puts more than one space between the features of two leaves.
        kept |= {name: " ".join(tree[name].split(" ")).strip() for name in _LINEAR}
        kept |= {name: re.sub(" +", " ", kept[name]) for name in ("leaf_features", "leaf_coeff")}
        counts, features = _integers(kept, "num_features"), _integers(kept, "leaf_features", empty=True)
        check_lengths(leaves, counts, _numbers(kept, "leaf_const"))
        check_indices(counts, width + 1)
        check_lengths(int(counts.sum()), features, _numbers(kept, "leaf_coeff", empty=True))
        check_indices(features, width)
    return {name: kept[name] for name in _TREE if name in kept}


def _check_splits(tree: Mapping[str, str], leaves: int, sets: int, width: int) -> None:
    columns = {name: _integers(tree, name) if name in _OF_INTEGERS else _numbers(tree, name) for name in _PER_SPLIT}
    check_lengths(leaves - 1, *columns.values())
    check_indices(columns["split_feature"], width)
    left, right, decisions = columns["left_child"], columns["right_child"], columns["decision_type"]
    children = np.concatenate((left, right))
    check_branches(children[children >= 0], leaves - 1)
    check_indices(~children[children < 0], leaves)
    if len(np.unique(children)) != len(children):
        raise Damaged(OUT_OF_RANGE)
    check_depth(np.where(left < 0, -1, left), np.where(right < 0, -1, right))
    if ((decisions < 0) | (decisions >> 2 > max(_MISSING))).any():
        raise Damaged("it has a split of an unknown kind")
    by_category = (decisions & _CATEGORICAL) != 0
    if by_category.any() != bool(sets):
        raise Damaged(OUT_OF_RANGE)
    if sets:
        bounds, members = _integers(tree, "cat_boundaries"), _integers(tree, "cat_threshold")
        check_lengths(sets + 1, bounds)
        check_indices(members, 1 << 32)
        if bounds[0] != 0 or (np.diff(bounds) < 0).any() or bounds[-1] != len(members):
            raise Damaged(OUT_OF_RANGE)
        chosen = columns["threshold"][by_category]
        check_indices(np.nan_to_num(chosen, nan=-1, posinf=-1, neginf=-1), sets)
        if (chosen % 1 != 0).any():
            raise Damaged(OUT_OF_RANGE)


def _integer(fields: Mapping[str, str], name: str) -> int:
    values = _integers(fields, name)
    check_lengths(1, values)
    return int(values[0])


def _integers(fields: Mapping[str, str], name: str, empty: bool = False) -> Array:
    text = fields[name]
    if not _INTEGERS.fullmatch(text) and not (empty and not text):
        raise Damaged("it has text instead of an integer")
    return np.fromstring(text, np.int64, sep=" ") if text else np.zeros(0, np.int64)


def _numbers(fields: Mapping[str, str], name: str, empty: bool = False) -> Array:
    text = fields[name]
    if not _NUMBERS.fullmatch(text) and not (empty and not text):
        raise Damaged("it has text instead of a number")
    return np.fromstring(text, np.float64, sep=" ") if text else np.zeros(0)


def _categories(rest: str) -> str:
    """Return the categories of a DataFrame, which are in the last line: lists of plain values, or null."""
    line = next((line for line in reversed(rest.split("\n")) if line.startswith(_PANDAS)), f"{_PANDAS}null")
    content = json.loads(line.removeprefix(_PANDAS), parse_constant=_no_constant)
    for categories in content or ():
        if not isinstance(categories, list) or not all(
            isinstance(value, (str, int, float, bool, type(None))) for value in categories
        ):
            raise Damaged("it has categories that are not plain values")
    if content is not None and not isinstance(content, list):
        raise Damaged("it has categories that are not plain values")
    return json.dumps(content)


def _no_constant(_: str) -> Any:
    raise Damaged("it has a category that is not a finite number")


def _written(header: Mapping[str, str], trees: list[dict[str, str]], categories: str) -> str:
    blocks = [
        f"Tree={index}\n" + "".join(f"{name}={value}\n" for name, value in tree.items()) + "\n\n"
        for index, tree in enumerate(trees)
    ]
    return "".join(_lines(header, blocks, categories))


def _lines(header: Mapping[str, str], blocks: list[str], categories: str) -> Iterator[str]:
    yield "tree\n"
    for name in _HEADER:
        if name in header:
            yield f"{name}\n" if name == "average_output" else f"{name}={header[name]}\n"
    yield f"tree_sizes={' '.join(str(len(block)) for block in blocks)}\n\n"
    yield from blocks
    yield f"{_END}\n\n{_PANDAS}{categories}\n"
