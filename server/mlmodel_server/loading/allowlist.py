"""The exact globals that a model file may name, and how the list of them is made.

``allowed.txt`` has one line for each: module, name, kind, and the scikit-learn versions that have it. The list has
exact names and no prefixes, because trusted packages contain gadgets (``sklearn.utils._testing`` runs programs,
``numpy.f2py`` evaluates strings, ``joblib.numpy_pickle.load`` opens further files). The kind is what a file gets for
the name:

``class``
    instances, created without the constructor
``value``
    the object: number types, and numerical functions that are harmless with any arguments
``name``
    only the name: constructors that :mod:`.rebuild` calls after a check, and functions that an estimator keeps from its
    training but does not need for a prediction

The list is generated from scikit-learn's own registry and the tables below, and committed, so that a server imports
only the modules that its model names. To add another version, install it and run:

    python -m mlmodel_server.loading.allowlist

Lines of other versions stay, so a model saved with one of them still loads if the class still exists. The kind is that
of the newest version.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Literal

LIST = Path(__file__).with_name("allowed.txt")

Kind = Literal["class", "value", "name"]
Pair = tuple[str, str]

# In these modules every class *defined there* is plain data or arithmetic that fitted estimators contain.
# Each was reviewed: no __setstate__ opens a file, imports a name or runs a callable.
CLASS_MODULES = (
    "sklearn._loss._loss",
    "sklearn._loss.link",
    "sklearn._loss.loss",
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

EXPLICIT: tuple[tuple[Kind, str, tuple[str, ...]], ...] = (
    ("class", "joblib.numpy_pickle", ("NumpyArrayWrapper",)),
    ("class", "lightgbm.basic", ("Booster",)),
    ("class", "lightgbm.sklearn", ("LGBMClassifier", "LGBMModel", "LGBMRanker", "LGBMRegressor")),
    ("class", "numpy", ("dtype", "ndarray", "matrix")),
    ("class", "numpy.ma", ("MaskedArray",)),
    ("class", "numpy.ma.core", ("MaskedArray",)),
    ("class", "scipy.interpolate._bsplines", ("BSpline",)),
    ("class", "sklearn.calibration", ("_CalibratedClassifier", "_SigmoidCalibration", "_TemperatureScaling")),
    ("class", "sklearn.cluster._birch", ("_CFNode", "_CFSubcluster")),
    ("class", "sklearn.cluster._bisect_k_means", ("_BisectingTree",)),
    ("class", "sklearn.compose._column_transformer", ("make_column_selector",)),
    ("class", "sklearn.gaussian_process._gpc", ("_BinaryGaussianProcessClassifierLaplace",)),
    ("class", "sklearn.metrics._scorer", ("_CurveScorer", "_PassthroughScorer", "_Scorer")),
    (
        "class",
        "sklearn.model_selection._search_successive_halving",
        ("HalvingGridSearchCV", "HalvingRandomSearchCV"),
    ),
    ("class", "sklearn.multiclass", ("_ConstantPredictor",)),
    ("class", "sklearn.neighbors._ball_tree", ("BallTree", "BallTree32", "BallTree64")),
    ("class", "sklearn.neighbors._kd_tree", ("KDTree", "KDTree32", "KDTree64")),
    ("class", "sklearn.tree._tree", ("Tree",)),
    ("class", "sklearn.utils._bunch", ("Bunch",)),
    ("class", "sklearn.utils._metadata_requests", ("MetadataRequest", "MethodMetadataRequest")),
    ("class", "xgboost.core", ("Booster",)),
    (
        "class",
        "xgboost.sklearn",
        ("XGBClassifier", "XGBModel", "XGBRFClassifier", "XGBRFRegressor", "XGBRanker", "XGBRegressor"),
    ),
    ("value", "builtins", ("bool", "float", "int", "object", "str")),
    ("value", "numpy", ("clip", "mean", "median", "nan_to_num", "round")),
    ("value", "scipy._lib.array_api_compat.numpy._aliases", ("asarray",)),
    ("value", "scipy.special._special_ufuncs", ("expit", "logit")),
    ("value", "sklearn.feature_selection._mutual_info", ("mutual_info_classif", "mutual_info_regression")),
    (
        "value",
        "sklearn.feature_selection._univariate_selection",
        ("chi2", "f_classif", "f_regression", "r_regression"),
    ),
    ("value", "sklearn.preprocessing._function_transformer", ("_identity",)),
    ("name", "_codecs", ("encode",)),
    ("name", "builtins", ("bytearray", "bytes", "complex", "frozenset", "range", "set", "slice")),
    ("name", "collections", ("OrderedDict", "defaultdict")),
    ("name", "functools", ("partial",)),
    ("name", "numpy._core.multiarray", ("_reconstruct", "scalar")),
    ("name", "numpy._core.numeric", ("_frombuffer",)),
    ("name", "numpy.core.multiarray", ("_reconstruct", "scalar")),
    ("name", "numpy.core.numeric", ("_frombuffer",)),
    ("name", "numpy.ma.core", ("_mareconstruct",)),
    ("name", "numpy.random", ("RandomState", "Generator")),
    ("name", "numpy.random._mt19937", ("MT19937",)),
    ("name", "numpy.random._pcg64", ("PCG64", "PCG64DXSM")),
    ("name", "numpy.random._philox", ("Philox",)),
    ("name", "numpy.random._sfc64", ("SFC64",)),
    ("name", "numpy.random.mtrand", ("RandomState",)),
    ("name", "numpy.random._pickle", ("__bit_generator_ctor", "__generator_ctor", "__randomstate_ctor")),
    ("name", "numpy.random.bit_generator", ("SeedSequence", "__pyx_unpickle_SeedSequence")),
    ("name", "sklearn.cluster._kmeans", ("_kmeans_single_elkan", "_kmeans_single_lloyd")),
    ("name", "sklearn.metrics._dist_metrics", ("newObj",)),
    ("name", "sklearn.neighbors._ball_tree", ("newObj",)),
    ("name", "sklearn.neighbors._kd_tree", ("newObj",)),
    ("name", "sklearn.utils.validation", ("check_array",)),
)


def _estimators() -> Iterator[tuple[Pair, Kind]]:
    from sklearn.utils import all_estimators

    for _, cls in all_estimators():
        if cls.__module__.split(".")[0] == "sklearn":
            yield (cls.__module__, cls.__qualname__), "class"


def _classes() -> Iterator[tuple[Pair, Kind]]:
    for module_name in CLASS_MODULES:
        module = importlib.import_module(module_name)
        for name, value in vars(module).items():
            defined_here = getattr(value, "__module__", None) in (module_name, module_name.rpartition(".")[2])
            if inspect.isclass(value) and defined_here and not issubclass(value, BaseException):
                yield (module_name, name), "class"
            elif name.startswith("__pyx_unpickle_") and defined_here:
                yield (module_name, name), "name"  # Cython's constructors; each creates the class in its name


def _metrics() -> Iterator[tuple[Pair, Kind]]:
    """Yield the scores of searches: they stay in the estimator, and a tuned threshold reads their signature."""
    from sklearn import metrics

    for name in metrics.get_scorer_names():
        score = getattr(metrics.get_scorer(name), "_score_func", None)
        if score is not None:
            yield (score.__module__, score.__name__), "value"
    for name in metrics.__all__:
        value = getattr(metrics, name)
        if inspect.isfunction(value):
            yield (value.__module__, value.__name__), "name"


def _numpy_values() -> Iterator[tuple[Pair, Kind]]:
    import numpy as np

    for name, value in vars(np).items():
        if isinstance(value, np.ufunc) or (inspect.isclass(value) and issubclass(value, np.generic)):
            yield ("numpy", getattr(value, "__name__", name)), "value"


def generate() -> dict[Pair, Kind]:
    """Return the list for the installed versions."""
    generated: dict[Pair, Kind] = {}
    for source in (_estimators(), _classes(), _metrics(), _numpy_values()):
        for (module, name), kind in source:
            if "." not in name and "<" not in name:
                generated.setdefault((module, name), kind)
    for kind, module, names in EXPLICIT:
        generated |= dict.fromkeys(((module, name) for name in names), kind)
    return generated


def installed_version() -> str:
    """Return the version of scikit-learn without the patch level, which marks the lines."""
    import sklearn

    return ".".join(sklearn.__version__.split(".")[:2])


def newest(versions: Iterable[str]) -> str:
    """Return the highest of versions such as 1.9 and 1.10; "" if there are none."""
    return max(versions, key=lambda version: [int(part) for part in version.split(".")], default="")


def read() -> dict[Pair, tuple[Kind, list[str]]]:
    """Read the committed list: kind and versions of each global."""
    lines = (line.split() for line in LIST.read_text("utf-8").splitlines())
    return {(module, name): (kind, versions) for module, name, kind, *versions in lines}  # type: ignore[misc]


@cache
def kinds() -> dict[Pair, Kind]:
    """Return the kind of each global on the list, of any version."""
    return {pair: kind for pair, (kind, _) in read().items()}


def update() -> str:
    """Update the marks of the installed version in the list, and return a summary."""
    listed, generated, version = read() if LIST.exists() else {}, generate(), installed_version()
    lines = []
    for pair in sorted({*listed, *generated}):
        kind, versions = listed.get(pair, ("name", []))
        marks = {*versions, version} if pair in generated else {*versions} - {version}
        if version == newest(marks):
            kind = generated.get(pair, kind)
        if marks:
            lines.append(f"{' '.join(pair)} {kind} {' '.join(sorted(marks))}\n")
    LIST.write_text("".join(lines), "utf-8")
    new = len({*generated} - {*listed})
    return f"{LIST.name}: {len(generated)} globals of scikit-learn {version}, {new} of them new"


if __name__ == "__main__":
    sys.stdout.write(update() + "\n")
