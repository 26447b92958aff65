"""The registry: every class has an entry, and a state that compiled code would follow out of its memory is refused."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.cluster import Birch, BisectingKMeans, FeatureAgglomeration, KMeans
from sklearn.covariance import OAS, EllipticEnvelope, MinCovDet
from sklearn.ensemble import (
    BaggingClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDRegressor
from sklearn.multioutput import RegressorChain
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MultiLabelBinarizer,
    OneHotEncoder,
    PolynomialFeatures,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import SVC, OneClassSVM
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils import Bunch
from skops import io as skops

from mlmodel_server import registry
from mlmodel_server.errors import RefusedModel
from mlmodel_server.loading.trust import open_artefact
from tests.unit.server.loading.malicious import Call
from tests.unit.server.models import joblib_bytes

pytestmark = pytest.mark.models

X = np.random.default_rng(7).normal(size=(40, 4))
Y = np.digitize(X[:, 0] + X[:, 1], [-0.6, 0.6])
CATEGORIES = np.random.default_rng(7).integers(0, 4, (40, 2)).astype(float)
TEXTS = ["good day", "bad night", "good night", "bad day"] * 10


def _csr(index: int) -> Any:
    """Return a row of four columns whose only value lies in column ``index``."""
    matrix = sp.csr_matrix((np.array([1.0]), np.array([0], np.int32), np.array([0, 1], np.int32)), shape=(1, 4))
    matrix.indices[0] = index
    return matrix


def _csc(index: int) -> Any:
    starts = np.array([0, 1, 1, 1, 1], np.int32)
    matrix = sp.csc_matrix((np.array([1.0]), np.array([0], np.int32), starts), shape=(1, 4))
    matrix.indices[0] = index
    return matrix


def _coo(index: int) -> Any:
    matrix = sp.coo_matrix((np.array([1.0]), ([0], [0])), shape=(1, 4))
    matrix.coords[1][0] = index
    return matrix


def _dia(offset: int) -> Any:
    matrix = sp.dia_matrix((np.ones((1, 4)), [0]), shape=(1, 4))
    matrix.offsets[0] = offset
    return matrix


def _starts() -> Any:
    matrix = _csr(0)
    matrix.indptr[1] = 1000
    return matrix


def _set(model: Any, **changes: Any) -> Any:
    vars(model).update(changes)
    return model


def _linear(matrix: Any) -> Any:
    return _set(SGDRegressor(max_iter=5, tol=None).fit(X, Y), coef_=matrix, intercept_=np.zeros(1))


def _tree(change: Callable[[Any], None]) -> Any:
    model = DecisionTreeClassifier(max_depth=2).fit(X, Y)
    state = model.tree_.__getstate__()
    change(state)
    return _set(model, tree_=Call(type(model.tree_), *model.tree_.__reduce__()[1], state=state))


def _search(place: int, value: Callable[[Any], Any], algorithm: str = "kd_tree", **options: Any) -> Any:
    model = KNeighborsClassifier(3, algorithm=algorithm, leaf_size=5, **options).fit(X, Y)
    state = list(model._tree.__getstate__())
    state[place] = value(state[place])
    function, arguments = model._tree.__reduce__()[:2]
    return _set(model, _tree=Call(function, *arguments, state=tuple(state)))


def _metric(name: str, vector: Any, matrix: Any, **options: Any) -> Any:
    def shorter(metric: Any) -> Any:
        function, arguments, (power, *_) = metric.__reduce__()
        return Call(function, *arguments, state=(power, vector, matrix))

    return _search(11, shorter, "ball_tree", metric=name, metric_params=options)


def _spline(**changes: Any) -> Any:
    model = SplineTransformer(4).fit(X)
    _set(model.bsplines_[0], **changes)
    return model


def _spline_knots(change: Callable[[Any], Any]) -> Any:
    spline = SplineTransformer(4).fit(X).bsplines_[0]
    return _spline(_t=change(vars(spline)["_t"].copy()))


def _histogram(change: Callable[[Any], None]) -> Any:
    model = HistGradientBoostingClassifier(max_iter=2, min_samples_leaf=3).fit(np.c_[CATEGORIES, X], Y)
    change(model)
    return model


def _sparse_machine(change: Callable[[Any], None], machine: Any = None) -> Any:
    model = (machine or SVC()).fit(sp.csr_matrix(X), Y)
    change(model)
    return model


def _encoder(**changes: Any) -> Any:
    encoder = OneHotEncoder().fit(CATEGORIES)
    model = make_pipeline(encoder, LogisticRegression()).fit(CATEGORIES, Y)
    _set(model.steps[0][1], **changes)
    return model


def _vocabulary(model: Any, table: Any, index: int) -> Any:
    vocabulary = model.fit(table).vocabulary_
    vocabulary[min(vocabulary)] = index
    return model


def _boosting(**changes: Any) -> Any:
    model = GradientBoostingClassifier(n_estimators=2, max_depth=2).fit(X, Y)
    return _set(model, **changes)


_OUT = "index out of range"
_LENGTH = "array of the wrong length"
_TYPE = "array of the wrong type"
FORGED: dict[str, tuple[Callable[[], Any], str]] = {
    "csr behind its row": (lambda: _linear(_csr(1000)), _OUT),
    "csr before its row": (lambda: _linear(_csr(-8)), _OUT),
    "csc that is written to": (lambda: _linear(_csc(64)), _OUT),
    "coo": (lambda: _linear(_coo(64)), _OUT),
    "dia": (lambda: _linear(_dia(1 << 20)), _OUT),
    "csr that claims more values": (lambda: _linear(_starts()), _OUT),
    "lil": (lambda: _linear(sp.lil_matrix((1, 4))), "refused scipy.sparse._lil.lil_matrix"),
    "matrix": (lambda: _linear(np.asmatrix(np.ones((1, 4)))), "array|matrix"),
    "tree with more nodes than memory": (lambda: _tree(lambda s: s.update(node_count=1000)), "number out of range"),
    "tree without nodes": (lambda: _tree(lambda s: s.update(nodes=s["nodes"][0])), _TYPE),
    "tree with few values": (lambda: _tree(lambda s: s.update(values=s["values"][:1])), _LENGTH),
    "another object than a tree": (lambda: _boosting_with_bunch(), "where Tree is expected"),
    "forest without width": (lambda: _set(RandomForestClassifier(2).fit(X, Y), n_features_in_=9), _OUT),
    "bagging with many columns": (lambda: _bagging(), _OUT),
    "boosting whose first answer is narrow": (lambda: _narrow_boosting(), _LENGTH),
    "histogram with few words": (
        lambda: _histogram(lambda m: _set(m._predictors[0][0], raw_left_cat_bitsets=np.zeros((9, 1), np.uint32))),
        _LENGTH,
    ),
    "histogram with another width": (lambda: _histogram(lambda m: _set(m, n_features_in_=9)), _LENGTH),
    "k-d tree without upper bounds": (lambda: _search(3, lambda bounds: bounds[:1]), _LENGTH),
    "k-d tree with few nodes": (lambda: _search(6, lambda count: count + 2), _OUT),
    "k-d tree with an empty state": (lambda: _empty_search(), "unknown kind"),
    "k-d tree without metric": (lambda: _search(11, lambda _: None), "without a distance"),
    "variances of fewer columns": (
        lambda: _metric("seuclidean", np.ones(1), np.ones((1, 1)), V=np.ones(4)), "another number of columns"
    ),
    "matrix of fewer columns": (
        lambda: _metric("mahalanobis", np.ones(1), np.eye(2), VI=np.eye(4)), "another number of columns"
    ),
    "neighbours of another width": (lambda: _neighbours(_fit_X=np.ones((40, 2))), "wrong size"),
    "more neighbours than rows": (lambda: _neighbours(n_samples_fit_=1000), "wrong size"),
    "labels of other classes": (lambda: _neighbours(_y=np.full(40, 1000)), _OUT),
    "matrix of a brute search": (
        lambda: _set(
            KNeighborsClassifier(3, algorithm="brute", metric="mahalanobis", metric_params={"VI": np.eye(4)}).fit(X, Y),
            effective_metric_params_={"VI": np.eye(1)},
        ),
        _LENGTH,
    ),
    "sparse machine with few coefficients": (
        lambda: _sparse_machine(lambda m: _set(m, _dual_coef_=sp.csr_matrix(m._dual_coef_.toarray() * [[1], [0]]))),
        _LENGTH,
    ),
    "sparse machine that claims to be dense": (lambda: _sparse_machine(lambda m: _set(m, _sparse=False)), _TYPE),
    "sparse machine with probabilities": (
        lambda: _sparse_machine(lambda m: _set(m, _effective_probability=True), OneClassSVM()), "wrong length"
    ),
    "another machine": (lambda: _set(SVC().fit(X, Y), _impl="epsilon_svr"), "replaces a method of SVC"),
    "support behind a kernel": (
        lambda: _set(SVC(kernel="precomputed").fit(X @ X.T, Y), support_=np.full(40, 1 << 20, np.int32)), "."
    ),
    "knots that are not sorted": (lambda: _spline_knots(lambda knots: knots[::-1].copy()), _OUT),
    "knots that are not finite": (lambda: _spline_knots(lambda knots: np.where(knots > 0, np.nan, knots)), _OUT),
    "few coefficients": (lambda: _spline(_c=np.zeros((1, 6))), _OUT),
    "high degree": (lambda: _spline(k=100), _OUT),
    "columns of categories": (lambda: _encoder(_n_features_outs=[1, 1]), "number out of range"),
    "categories that are not sorted": (
        lambda: _encoder(categories_=[np.array([3.0, 2.0, 1.0, 0.0])] * 2), "not sorted"
    ),
    "term without a column": (lambda: _vocabulary(CountVectorizer(), TEXTS, 1 << 20), _OUT),
    "term before the columns": (lambda: _vocabulary(CountVectorizer(), TEXTS, -5), _OUT),
    "feature without a column": (lambda: _vocabulary(DictVectorizer(), [{"a": 1.0, "b": 1.0}], 1 << 20), _OUT),
    "label without a column": (lambda: _set(MultiLabelBinarizer().fit([[1, 2]]), _cached_dict={1: 0, 2: 99}), _OUT),
    "polynomial with more columns": (
        lambda: _set(PolynomialFeatures(2).fit(X), _n_out_full=99), "does not fit its degree"
    ),
    "chain without a column": (
        lambda: _set(RegressorChain(LinearRegression()).fit(X, X[:, :2]), order_=[0, 0]), _OUT
    ),
    "target without an encoding": (
        lambda: _set(TargetEncoder(random_state=7).fit(CATEGORIES, Y), encodings_=[np.ones(4)]), _LENGTH
    ),
    "no column for a hash": (lambda: HashingVectorizer().set_params(n_features=0), "parameter n_features"),
    "precision of no row": (lambda: _set(EllipticEnvelope().fit(X), precision_=np.empty((0, 4))), _LENGTH),
    "precision of fewer columns": (lambda: _set(MinCovDet().fit(X), precision_=np.ones((2, 2))), _LENGTH),
    "covariance that is a number": (lambda: _set(OAS().fit(X), covariance_=np.array(1.0)), _TYPE),
    "network without a layer": (
        lambda: _set(MLPRegressor(hidden_layer_sizes=(3,), max_iter=5).fit(X, Y), n_layers_=-4), "number out of range"
    ),
    "many threads": (lambda: _set(KMeans(2, n_init=1).fit(X), _n_threads=1 << 30), "number out of range"),
    "centre of another width": (lambda: _bisecting(), _LENGTH),
    "norms of fewer centres": (lambda: _set(Birch(n_clusters=2).fit(X), _subcluster_norms=np.ones(1)), _LENGTH),
    "cluster of a column": (
        lambda: _set(FeatureAgglomeration(2).fit(X), labels_=np.array([0, 0, 0, 1 << 40])), _OUT
    ),
    "part of a dictionary": (lambda: _set(StandardScaler().fit(X), other_=Bunch(inner=_csr(64))), _OUT),
    "function that answers nothing": (
        lambda: FunctionTransformer(np.exp, kw_args={"where": False}).fit(X), "with an option other than a_max"
    ),
    "class that is an object": (
        lambda: _set(LogisticRegression().fit(X, Y), classes_=np.array([StandardScaler(), 1, 2])),
        "neither text nor a number",
    ),
    "method": (lambda: _set(StandardScaler().fit(X), transform=np.exp), "replaces a method of StandardScaler"),
    "number of columns": (lambda: _set(StandardScaler().fit(X), n_features_in_=np.array([4])), "number of columns"),
}  # fmt: skip


def _boosting_with_bunch() -> Any:
    model = _boosting()
    model.estimators_[0, 0].tree_ = Bunch(n_features=4)
    return model


def _narrow_boosting() -> Any:
    model = _boosting()
    _set(model.init_, class_prior_=model.init_.class_prior_[:1])
    return model


def _bagging() -> Any:
    model = BaggingClassifier(DecisionTreeRegressor(), 2, max_features=0.5).fit(X, Y > 0)
    columns = np.zeros(9, int)
    wide = DecisionTreeRegressor().fit(np.ones((4, 9)) * np.arange(4)[:, None], range(4))
    return _set(model, estimators_=[wide] * 2, estimators_features_=[columns] * 2)


def _empty_search() -> Any:
    model = KNeighborsClassifier(3, algorithm="kd_tree").fit(X, Y)
    function, arguments = model._tree.__reduce__()[:2]
    return _set(model, _tree=Call(function, *arguments, state=(X,)))


def _neighbours(**changes: Any) -> Any:
    return _set(KNeighborsClassifier(3, algorithm="brute").fit(X, Y), **changes)


def _bisecting() -> Any:
    model = BisectingKMeans(3, random_state=7).fit(X)
    _set(model._bisecting_tree.left, center=np.ones(2))
    return model


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_state_is_refused(name: str) -> None:
    make, reason = FORGED[name]
    data = joblib_bytes(make())
    with pytest.raises(RefusedModel, match=reason):
        open_artefact(data, "model.joblib")


@pytest.mark.parametrize(
    "name",
    ["csr behind its row", "csc that is written to", "few coefficients", "columns of categories",
     "term without a column", "more neighbours than rows", "another machine", "chain without a column"],
)  # fmt: skip
def test_a_forged_state_is_refused_in_skops_too(name: str) -> None:
    make, reason = FORGED[name]
    with pytest.raises(RefusedModel, match=reason):
        open_artefact(skops.dumps(make()), "model.skops")


@pytest.mark.parametrize("part", ["values", "node_count"])
def test_skops_checks_the_state_of_a_tree_before_the_tree_reads_it(part: str) -> None:
    model = DecisionTreeClassifier(max_depth=2).fit(X, Y)
    state = model.tree_.__getstate__()
    state[part] = state[part][0] if part == "values" else 1000

    class Forged:
        def __reduce__(self) -> Any:
            return type(model.tree_), model.tree_.__reduce__()[1], state

    from skops.io import _sklearn

    def get_state(_tree: Any, context: Any) -> Any:
        node = _sklearn.reduce_get_state(Forged(), context)
        return {**node, "__class__": "Tree", "__module__": "sklearn.tree._tree", "__loader__": "TreeNode"}

    from skops.io._utils import _get_state

    _get_state.register(type(model.tree_))(get_state)
    try:
        data = skops.dumps(model)
    finally:
        _get_state.register(type(model.tree_))(_sklearn.tree_get_state)
    with pytest.raises(RefusedModel, match=r"wrong type|out of range"):
        open_artefact(data, "model.skops")


def test_a_generator_that_would_read_behind_its_numbers_is_refused() -> None:
    generator = np.random.RandomState(7)
    state = generator.get_state(legacy=False)
    state["state"]["pos"] = 1 << 20

    class Forged:
        def __reduce__(self) -> Any:
            return (*np.random.RandomState(7).__reduce__()[:2], state)

    model = _set(LinearRegression().fit(X, Y), random_state_=Forged())
    with pytest.raises(RefusedModel, match="cannot be read"):
        open_artefact(joblib_bytes(model), "model.joblib")


def test_a_sparse_coefficient_that_is_sound_is_served() -> None:
    fitted = LogisticRegression(l1_ratio=1, solver="liblinear", C=0.2).fit(X, Y > 0).sparsify()
    model = open_artefact(joblib_bytes(fitted), "model.joblib")
    np.testing.assert_array_equal(model.predict(X), fitted.predict(X))


@pytest.mark.parametrize("kind", ["joblib", "skops"])
def test_an_experimental_estimator_is_served(kind: str) -> None:
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    table = np.where(np.random.default_rng(7).random(X.shape) < 0.2, np.nan, X)
    fitted = make_pipeline(IterativeImputer(random_state=7), LinearRegression()).fit(table, Y)
    data = joblib_bytes(fitted) if kind == "joblib" else skops.dumps(fitted)
    code = f"""
import io, json, sys
from mlmodel_server.loading.trust import open_artefact
import numpy as np
table = np.load(io.BytesIO(bytes.fromhex(sys.argv[1])))
print(json.dumps(open_artefact(sys.stdin.buffer.read(), "model.{kind}").predict(table).tolist()))
"""
    rows = io.BytesIO()
    np.save(rows, table[:3])
    command = [sys.executable, "-W", "ignore", "-c", code, rows.getvalue().hex()]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-500:]
    np.testing.assert_allclose(eval(done.stdout), fitted.predict(table[:3]))


def test_the_names_import_no_library() -> None:
    code = "import sys; from mlmodel_server import registry; registry.entries(); print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_class_of_the_registry_exists_in_the_installed_version() -> None:
    missing = []
    for entry in registry.entries().values():
        try:
            getattr(__import__(entry.module, fromlist=[entry.name]), entry.name)
        except (ImportError, AttributeError):
            missing.append(f"{entry.module}.{entry.name}")
    assert missing == []


def test_joblib_reads_the_same_arrays() -> None:
    """The rules for arrays reject nothing that numpy wrote."""
    tables = [np.asfortranarray(X), X[::2], X.T, X.astype(">f8"), np.ma.masked_invalid(X), np.array("text"), X[:0]]
    for table in tables:
        model = _set(LinearRegression().fit(X, Y), other_=table)
        np.testing.assert_array_equal(open_artefact(joblib_bytes(model), "m.joblib").other_, table)
        assert joblib.load(io.BytesIO(joblib_bytes(model))).other_.shape == table.shape
