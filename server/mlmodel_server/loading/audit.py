"""Check every object of an opened model: what its parts would do, and where its trees would read.

The allow-list limits the types of a model. This module checks that an object of these types only predicts: it rejects a
text vectorizer that opens the files that a request names, a function that is not arithmetic, and a tree whose next node
lies outside its memory (scikit-learn would read there).
"""

from __future__ import annotations

import functools
import operator
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.trees import OUT_OF_RANGE, Damaged, check_branches, check_indices, check_lengths
from mlmodel_server.loading import allowlist

_FUNCTIONS = (types.FunctionType, type(np.mean))
_CODE = (
    type,
    *_FUNCTIONS,
    functools.partial,
    operator.attrgetter,
    operator.itemgetter,
    operator.methodcaller,
    types.BuiltinFunctionType,
    types.MethodType,
    types.ModuleType,
    np.vectorize,
)
_CREATED_BY_SETSTATE = ("interp1d",)  # of an isotonic regression; not on the list, so a file cannot contain it
_NEIGHBOURS = ("sklearn.neighbors._ball_tree", "sklearn.neighbors._kd_tree")


def audit(model: Any, refuse: Callable[[str], RefusedModel]) -> None:
    """Raise the error of ``refuse``, or ValueError for forged numbers, unless ``model`` can only compute."""
    seen: set[int] = set()
    stack = [model]
    while stack:  # no recursion: a hostile model may be nested deeper than Python's stack
        part = stack.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, _CODE) and not _is_validation(part):
            _check_code(part, refuse)
        stack += _children(part)
        _check(part, refuse)


def _children(part: Any) -> Iterator[Any]:
    if isinstance(part, np.ndarray):
        if part.dtype.hasobject:
            yield from part.ravel()
    elif isinstance(part, (list, tuple, set, frozenset)):
        yield from part
    elif isinstance(part, dict):
        yield from part.values()
    elif hasattr(part, "__dict__") and not isinstance(part, _CODE) and type(part).__name__ not in _CREATED_BY_SETSTATE:
        yield from vars(part).values()


def _is_validation(part: Any) -> bool:
    """Whether ``part`` is what a histogram gradient boosting makes of its columns of numbers: float64, also missing."""
    from sklearn.utils.validation import check_array

    return (
        type(part) is functools.partial
        and part.func is check_array
        and part.args == ()
        and part.keywords == {"dtype": [np.float64], "ensure_all_finite": False}
        and not vars(part)
    )


def _check_code(part: Any, refuse: Callable[[str], RefusedModel]) -> None:
    if isinstance(part, type):
        if not issubclass(part, (np.generic, bool, float, int, str)) and part is not object:
            raise refuse(f"{part.__module__}.{part.__qualname__}")
        return
    module, name = getattr(part, "__module__", None), getattr(part, "__qualname__", None)
    if not isinstance(part, _FUNCTIONS) or allowlist.kinds().get((str(module), str(name))) != "value":
        raise refuse(f"{module}.{name}" if name else f"{type(part).__module__}.{type(part).__name__}")


def _check(part: Any, refuse: Callable[[str], RefusedModel]) -> None:
    kind = type(part)
    if kind.__module__ == "sklearn.tree._tree" and kind.__name__ == "Tree":
        nodes = part.__getstate__()["nodes"]
        inner = nodes["left_child"] != -1
        check_branches(np.concatenate((nodes["left_child"][inner], nodes["right_child"][inner])), len(nodes))
        check_indices(nodes["feature"][inner], part.n_features)
    elif kind.__module__ == "sklearn.ensemble._hist_gradient_boosting.predictor":
        _check_histogram(part)
    elif kind.__module__ in _NEIGHBOURS:
        _check_neighbours(part)
    elif kind.__module__ == "sklearn.feature_extraction.text" and getattr(part, "input", "content") != "content":
        raise refuse(f"{kind.__module__}.{kind.__name__} with input={str(part.input)[:20]!r}")
    elif kind.__module__.startswith(("sklearn.ensemble.", "sklearn.tree.")):
        _check_width(part)
    elif kind.__module__ == "sklearn.svm._classes" and hasattr(part, "_n_support"):
        _check_vectors(part)
    elif kind.__module__ == "sklearn.cluster._kmeans" and hasattr(part, "cluster_centers_"):
        check_lengths(part.n_features_in_, np.asarray(part.cluster_centers_).T)


def _check_width(part: Any) -> None:
    """Check that each tree reads no column that its ensemble lacks: only the ensemble checks the width of a table."""
    width = getattr(part, "n_features_in_", 0)
    trees = [part] if hasattr(part, "tree_") else list(np.ravel(getattr(part, "estimators_", ())))
    subsets = getattr(part, "estimators_features_", [None] * len(trees))
    for tree, columns in zip(trees, subsets, strict=False):
        if hasattr(tree, "tree_") and tree.tree_.n_features != (width if columns is None else len(columns)):
            raise Damaged(OUT_OF_RANGE)
        if columns is not None:
            check_indices(np.asarray(columns), width)
    for predictor in np.ravel(getattr(part, "_predictors", ())):
        check_indices(predictor.nodes["feature_idx"], width)
    if type(part).__module__ == "sklearn.ensemble._gb" and hasattr(part, "n_trees_per_iteration_"):
        # Each column of trees adds to a column of the initial prediction.
        classes = getattr(part.init_, "classes_", None) if part.init_ != "zero" else None
        columns = part.n_trees_per_iteration_ if classes is None else len(classes) if len(classes) > 2 else 1
        check_lengths(min(columns, part.n_trees_per_iteration_), np.asarray(part.estimators_).T)


def _check_vectors(machine: Any) -> None:
    """Check the lengths of arrays: libsvm derives them from the number of classes and of support vectors."""
    counts = np.asarray(machine._n_support)
    vectors, classes = len(machine.support_), len(counts)
    one = type(machine).__name__ not in ("SVC", "NuSVC")  # a regressor counts its vectors twice
    pairs = 1 if one else classes * (classes - 1) // 2
    sound = (
        counts.min() >= 0
        and (counts.max() if one else counts.sum()) == vectors
        and machine.support_vectors_.shape[0] == (0 if machine.kernel == "precomputed" else vectors)
        and machine._dual_coef_.shape == (1 if one else classes - 1, vectors)
        and len(machine._intercept_) == pairs
        and len(machine._probA) == len(machine._probB)
        and len(machine._probA) in (0, pairs)
    )
    if not sound:
        raise Damaged("its support vector machine has an array of the wrong length")


def _check_histogram(predictor: Any) -> None:
    nodes = predictor.nodes
    inner = nodes["is_leaf"] == 0
    check_branches(np.concatenate((nodes["left"][inner], nodes["right"][inner])), len(nodes))
    bitsets = nodes["bitset_idx"][inner & (nodes["is_categorical"] != 0)]
    check_indices(bitsets, min(len(predictor.raw_left_cat_bitsets), len(predictor.binned_left_cat_bitsets)))


def _check_neighbours(tree: Any) -> None:
    data, indices, nodes, bounds = (np.asarray(array) for array in tree.__getstate__()[:4])
    check_indices(indices, len(data))
    inner = np.flatnonzero(nodes["is_leaf"] == 0)
    starts, ends = nodes["idx_start"], nodes["idx_end"]
    inside = len(indices) == len(data) and starts.min() >= 0 and (starts <= ends).all() and ends.max() <= len(data)
    branches = not len(inner) or 2 * inner.max() + 2 < len(nodes)
    if not inside or not branches or bounds.shape[1:] != (len(nodes), data.shape[1]):
        raise Damaged(OUT_OF_RANGE)
