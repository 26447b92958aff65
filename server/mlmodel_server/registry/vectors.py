"""Support vector machines: libsvm derives the lengths of its arrays from each other."""

from __future__ import annotations

from typing import Any

from mlmodel_server.formats.trees import Damaged
from mlmodel_server.registry.entry import of
from mlmodel_server.registry.rules import check_indices, dense, number, whole_number


def check_machine(machine: Any) -> None:
    """Check the lengths and types of arrays: libsvm derives them from the numbers of classes and support vectors."""
    known = vars(machine)
    if "_n_support" not in known:
        return
    counts = dense(known["_n_support"], None, kinds="i")
    support = dense(known["support_"], None, kinds="i")
    vectors, classes = len(support), len(counts)
    one = type(machine).__name__ not in ("SVC", "NuSVC")  # a regressor counts its vectors twice
    pairs = 1 if one else classes * (classes - 1) // 2
    for array, length in ((known["_intercept_"], pairs), (known["_probA"], None), (known["_probB"], None)):
        dense(array, length)
    sound = (
        classes >= 2
        and (not one or classes == 2)
        and counts.min() >= 0
        and (counts.max() if one else counts.sum()) == vectors
        and len(known["_probA"]) == len(known["_probB"])
        and len(known["_probA"]) in ((0, pairs) if not one else (0, 1))
        and (one or len(known["classes_"]) == classes)
        and type(known["_sparse"]) is bool
        and (not known.get("_effective_probability", known["probability"]) or len(known["_probA"]) == pairs)
    )
    if not sound:
        raise Damaged("its support vector machine has an array of the wrong length")
    rows = whole_number(known["shape_fit_"][0], 1, 1 << 48)
    check_indices(support, rows)
    number(known["_gamma"])
    shape = (0 if known["kernel"] == "precomputed" or callable(known["kernel"]) else vectors, known["n_features_in_"])
    _check_coefficients(machine, shape, (1 if one else classes - 1, vectors))


def _check_coefficients(machine: Any, vectors: tuple[int, int], coefficients: tuple[int, int]) -> None:
    support, dual = machine.support_vectors_, machine._dual_coef_
    if not machine._sparse:
        dense(support, vectors[0], vectors[1] if vectors[0] else None)
        dense(dual, *coefficients)
    elif getattr(support, "format", "") != "csr" or getattr(dual, "format", "") != "csr":
        raise Damaged("its support vector machine has an array of the wrong type")
    elif support.shape != vectors or dual.shape != coefficients or len(dual.data) != coefficients[0] * coefficients[1]:
        raise Damaged("its support vector machine has an array of the wrong length")


ENTRIES = (
    *of("sklearn.svm._classes", "LinearSVC LinearSVR"),
    *of("sklearn.svm._classes", "NuSVC NuSVR OneClassSVM SVC SVR", check_machine),
)
