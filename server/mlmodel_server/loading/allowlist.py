"""Generates ``allowed.txt``: the exact globals that a model file may name, one ``module name`` a line.

Exact pairs and never a prefix: trusted packages hold gadgets (``sklearn.utils._testing`` runs programs, ``numpy.f2py``
evaluates strings, ``joblib.numpy_pickle.load`` opens further files). The list is generated from scikit-learn's own
registry of estimators and from what fitted estimators are known to contain, and committed, so that starting a server
imports only the modules which its model names. Regenerate after raising scikit-learn, numpy or scipy:

    python -m mlmodel_server.loading.allowlist

Lines of older versions stay: a model written with them still loads when the class still exists.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

LIST = Path(__file__).with_name("allowed.txt")

TYPE_NAMES = ("int", "float", "bool", "str", "complex", "bytes", "bytearray", "slice", "set", "frozenset", "range")

# Modules of which every class *defined there* is plain data or arithmetic that fitted estimators contain.
# Reviewed one by one: none of their constructors or __setstate__ opens a file, imports a name or runs a callable.
CLASS_MODULES = (
    "sklearn._loss._loss",
    "sklearn._loss.link",
    "sklearn._loss.loss",
    "sklearn.ensemble._gb_losses",
    "sklearn.ensemble._hist_gradient_boosting.binning",
    "sklearn.ensemble._hist_gradient_boosting.predictor",
    "sklearn.gaussian_process.kernels",
    "sklearn.linear_model._sgd_fast",
    "sklearn.metrics._dist_metrics",
    "sklearn.model_selection._split",
    "sklearn.neural_network._stochastic_optimizers",
    "scipy.sparse._bsr",
    "scipy.sparse._coo",
    "scipy.sparse._csc",
    "scipy.sparse._csr",
    "scipy.sparse._dia",
    "scipy.sparse._dok",
    "scipy.sparse._lil",
)

EXPLICIT = (
    ("builtins", TYPE_NAMES),
    ("collections", ("OrderedDict",)),
    ("joblib.numpy_pickle", ("NumpyArrayWrapper",)),
    ("numpy", ("dtype", "ndarray", "matrix", "bool_", "str_", "bytes_", "datetime64", "timedelta64", "mean", "median")),
    ("numpy._core.multiarray", ("_reconstruct", "scalar")),
    ("numpy._core.numeric", ("_frombuffer",)),
    ("numpy.core.multiarray", ("_reconstruct", "scalar")),
    ("numpy.core.numeric", ("_frombuffer",)),
    ("numpy.ma", ("MaskedArray",)),
    ("numpy.ma.core", ("MaskedArray", "_mareconstruct")),
    ("numpy.random", ("RandomState", "Generator")),
    ("numpy.random._pickle", ("__bit_generator_ctor", "__generator_ctor", "__randomstate_ctor")),
    ("numpy.random.bit_generator", ("SeedSequence", "__pyx_unpickle_SeedSequence")),
    ("numpy.random._mt19937", ("MT19937",)),
    ("numpy.random._pcg64", ("PCG64", "PCG64DXSM")),
    ("numpy.random._philox", ("Philox",)),
    ("numpy.random._sfc64", ("SFC64",)),
    ("numpy.random.mtrand", ("RandomState",)),
    ("scipy._lib.array_api_compat.numpy._aliases", ("asarray",)),
    ("scipy.interpolate._bsplines", ("BSpline",)),
    ("scipy.interpolate._interpolate", ("interp1d",)),
    ("scipy.special._special_ufuncs", ("expit", "logit")),
    ("sklearn.calibration", ("_CalibratedClassifier", "_SigmoidCalibration", "_TemperatureScaling")),
    ("sklearn.cluster._birch", ("_CFNode", "_CFSubcluster")),
    ("sklearn.cluster._bisect_k_means", ("_BisectingTree",)),
    ("sklearn.cluster._kmeans", ("_kmeans_single_elkan", "_kmeans_single_lloyd")),
    ("sklearn.compose._column_transformer", ("make_column_selector",)),
    ("sklearn.feature_selection._mutual_info", ("mutual_info_classif", "mutual_info_regression")),
    ("sklearn.feature_selection._univariate_selection", ("chi2", "f_classif", "f_regression", "r_regression")),
    ("sklearn.gaussian_process._gpc", ("_BinaryGaussianProcessClassifierLaplace",)),
    ("sklearn.metrics._scorer", ("_PassthroughScorer",)),
    ("sklearn.neighbors._ball_tree", ("BallTree", "BallTree32", "BallTree64", "newObj")),
    ("sklearn.neighbors._kd_tree", ("KDTree", "KDTree32", "KDTree64", "newObj")),
    ("sklearn.metrics._dist_metrics", ("newObj",)),
    ("sklearn.preprocessing._function_transformer", ("_identity",)),
    ("sklearn.tree._tree", ("Tree",)),
    ("sklearn.utils._bunch", ("Bunch",)),
)


def _estimators() -> Iterator[tuple[str, str]]:
    from sklearn.utils import all_estimators

    for _, cls in all_estimators():
        if cls.__module__.split(".")[0] == "sklearn":
            yield cls.__module__, cls.__qualname__


def _classes() -> Iterator[tuple[str, str]]:
    for module_name in CLASS_MODULES:
        try:
            module = importlib.import_module(module_name)
        except ImportError:  # the module of another scikit-learn version
            continue
        for name, value in vars(module).items():
            defined_here = getattr(value, "__module__", None) == module_name
            if inspect.isclass(value) and defined_here and not issubclass(value, BaseException):
                yield module_name, name
            elif name.startswith("__pyx_unpickle_") and defined_here:
                yield module_name, name  # how Cython classes are rebuilt; each makes the one class in its name


def _numpy_names() -> Iterator[tuple[str, str]]:
    import numpy as np

    for name, value in vars(np).items():
        if isinstance(value, np.ufunc) or (inspect.isclass(value) and issubclass(value, np.generic)):
            yield "numpy", getattr(value, "__name__", name)
    for name, value in vars(np.dtypes).items():
        if inspect.isclass(value) and issubclass(value, np.dtype):
            yield "numpy.dtypes", name


def generate() -> set[str]:
    """The list for the installed versions: lines ``module name``."""
    pairs = {*_estimators(), *_classes(), *_numpy_names()}
    pairs |= {(module, name) for module, names in EXPLICIT for name in names}
    return {f"{module} {name}" for module, name in pairs if "." not in name and "<" not in name}


def read() -> frozenset[tuple[str, str]]:
    """The committed list as (module, name) pairs."""
    lines = LIST.read_text("utf-8").splitlines()
    return frozenset((module, name) for module, _, name in (line.partition(" ") for line in lines) if name)


if __name__ == "__main__":
    before = {f"{module} {name}" for module, name in read()} if LIST.exists() else set()
    lines = sorted(before | generate())
    LIST.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    sys.stdout.write(f"{LIST.name}: {len(lines)} names, {len(set(lines) - before)} new\n")
