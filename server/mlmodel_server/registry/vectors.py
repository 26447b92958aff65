"""Support vector machines: libsvm derives the lengths of its arrays from each other."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlmodel_server.formats.trees import Damaged
from mlmodel_server.registry.entry import of


def check_machine(machine: Any) -> None:
    """Check the lengths of arrays: libsvm derives them from the number of classes and of support vectors."""
    if not hasattr(machine, "_n_support"):
        return
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


ENTRIES = (
    *of("sklearn.svm._classes", "LinearSVC LinearSVR"),
    *of("sklearn.svm._classes", "NuSVC NuSVR OneClassSVM SVC SVR", check_machine),
)
