"""Convert steps that turn columns into columns: scalers, encoders, imputers, and their unions."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, combinations_with_replacement
from typing import Any

import numpy as np

from mlmodel_server.compile.explore import UNKNOWN_TEXT
from mlmodel_server.compile.functions import MISSING_TEXT
from mlmodel_server.compile.graph import DOUBLE, Columns, Graph, converts, others_of, side_by_side, transform
from mlmodel_server.compile.plain import is_date
from mlmodel_server.compile.verdict import Unsupported
from mlmodel_server.formats.prepare import in_double
from mlmodel_server.formats.table import library
from mlmodel_server.tensors import Array, is_missing

MAX_CATEGORIES = 10_000


@converts("sklearn.StandardScaler")
def _standard_scaler(graph: Graph, scaler: Any, table: Columns) -> Columns:
    return _scaled(graph, table, scaler.mean_ if scaler.with_mean else None, scaler.scale_)


@converts("sklearn.RobustScaler")
def _robust_scaler(graph: Graph, scaler: Any, table: Columns) -> Columns:
    return _scaled(graph, table, scaler.center_, scaler.scale_ if scaler.with_scaling else None)


def _scaled(graph: Graph, table: Columns, center: Array | None, scale: Array | None) -> Columns:
    matrix = table.matrix(graph)
    if center is not None:
        matrix = graph.add("Sub", matrix, center)
    if scale is not None:
        matrix = graph.add("Div", matrix, scale)
    return Columns.of(matrix, len(table.places))


@converts("sklearn.MinMaxScaler")
def _min_max_scaler(graph: Graph, scaler: Any, table: Columns) -> Columns:
    matrix = graph.add("Add", graph.add("Mul", table.matrix(graph), scaler.scale_), scaler.min_)
    if scaler.clip:
        matrix = graph.add("Clip", matrix, float(scaler.feature_range[0]), float(scaler.feature_range[1]))
    return Columns.of(matrix, len(table.places))


@converts("sklearn.MaxAbsScaler")
def _max_abs_scaler(graph: Graph, scaler: Any, table: Columns) -> Columns:
    matrix = graph.add("Div", table.matrix(graph), scaler.scale_)
    if getattr(scaler, "clip", False):
        matrix = graph.add("Clip", matrix, -1.0, 1.0)
    return Columns.of(matrix, len(table.places))


@converts("sklearn.Normalizer")
def _normalizer(graph: Graph, normalizer: Any, table: Columns) -> Columns:
    matrix = table.matrix(graph)
    if normalizer.norm == "l2":
        length = graph.add("Sqrt", graph.over_columns("ReduceSum", graph.add("Mul", matrix, matrix)))
    else:
        reduce = "ReduceSum" if normalizer.norm == "l1" else "ReduceMax"
        length = graph.over_columns(reduce, graph.add("Abs", matrix))
    # As in scikit-learn, such rows stay as they are.
    tiny = graph.add("Less", length, 10 * float(np.finfo(np.float64).eps))
    divisor = graph.add("Where", tiny, 1.0, length)
    return Columns.of(graph.add("Div", matrix, divisor), len(table.places))


@converts("sklearn.PowerTransformer")
def _power_transformer(graph: Graph, transformer: Any, table: Columns) -> Columns:
    matrix, powers = table.matrix(graph), transformer.lambdas_
    if transformer.method != "yeo-johnson" or np.isnan(powers).any() or np.isin(powers, (0.0, 2.0)).any():
        raise Unsupported(f"PowerTransformer({transformer.method!r}) is not converted")

    def half(values: str, power: Array) -> str:
        logarithm = elementwise(graph, np.log1p, graph.add("Relu", values))
        return graph.add("Div", elementwise(graph, np.expm1, graph.add("Mul", logarithm, power)), power)

    positive = half(matrix, powers)
    negative = graph.add("Neg", half(graph.add("Neg", matrix), 2.0 - powers))
    matrix = graph.add("Where", graph.add("Less", matrix, 0.0), negative, positive)
    columns = Columns.of(matrix, len(table.places))
    return transform(graph, transformer._scaler, columns) if transformer.standardize else columns


@converts("sklearn.PolynomialFeatures")
def _polynomial_features(graph: Graph, features: Any, table: Columns) -> Columns:
    matrix, width = table.matrix(graph), len(table.places)
    choose = combinations if features.interaction_only else combinations_with_replacement
    terms = list(choose(range(width), 1))
    parts = [matrix] if features._min_degree <= 1 <= features._max_degree else []
    product = matrix
    for degree in range(2, features._max_degree + 1):
        longer = list(choose(range(width), degree))
        if not longer:
            break
        position = {term: index for index, term in enumerate(terms)}
        rest = graph.columns(product, [position[term[1:]] for term in longer])
        product = graph.add("Mul", rest, graph.columns(matrix, [term[0] for term in longer]))
        terms = longer
        if degree >= features._min_degree:
            parts.append(product)
    if features.include_bias:
        one = graph.columns(matrix, [0])
        parts.insert(0, graph.add("Where", graph.add("IsNaN", one), 1.0, 1.0))
    return Columns.of(graph.concat(parts), features.n_output_features_)


@converts("sklearn._BasePCA")
def _pca(graph: Graph, pca: Any, table: Columns) -> Columns:
    components = pca.components_.T
    matrix = graph.add(
        "Sub", graph.add("MatMul", table.matrix(graph), components), pca.mean_.reshape(1, -1) @ components
    )
    if pca.whiten:
        scale = np.sqrt(pca.explained_variance_)
        matrix = graph.add("Div", matrix, np.maximum(scale, np.finfo(scale.dtype).eps))
    return Columns.of(matrix, components.shape[1])


@converts("sklearn.TruncatedSVD")
def _truncated_svd(graph: Graph, svd: Any, table: Columns) -> Columns:
    return Columns.of(graph.add("MatMul", table.matrix(graph), svd.components_.T), len(svd.components_))


@converts("sklearn.SelectorMixin")
def _selector(_graph: Graph, selector: Any, table: Columns) -> Columns:
    return table.pick(selector.get_support(indices=True))


@converts("sklearn.SimpleImputer")
def _simple_imputer(graph: Graph, imputer: Any, table: Columns) -> Columns:
    if any(text for text, _ in table.places):
        if not _is_nan(imputer.missing_values) and imputer.missing_values is not None:
            raise Unsupported("SimpleImputer that replaces a text is not converted")
        if imputer.add_indicator or len(imputer.statistics_) != len(table.places):
            raise Unsupported("SimpleImputer that adds or removes columns beside text is not converted")
        if not all(text for text, _ in table.places):
            raise Unsupported("SimpleImputer on text and numbers together is not converted")
        if not all(isinstance(value, str) for value in imputer.statistics_):
            raise Unsupported("SimpleImputer that leaves texts missing is not converted")
        _texts(imputer.statistics_)
        parts = []
        for index, value in enumerate(imputer.statistics_):
            name, _ = table.column(graph, index)
            absent = graph.add("Equal", name, np.array([[MISSING_TEXT]], dtype=object))
            parts.append(graph.add("Where", absent, np.array([[value]], dtype=object), name))
        return Columns("", graph.concat(parts), tuple((True, index) for index in range(len(parts))), 0)
    matrix = table.matrix(graph)
    numbers = _is_nan(imputer.missing_values)
    if not numbers and not isinstance(imputer.missing_values, (int, float)):
        raise Unsupported("SimpleImputer that replaces something other than a number is not converted")
    mask = graph.add("IsNaN", matrix) if numbers else graph.add("Equal", matrix, float(imputer.missing_values))
    values = imputer.statistics_.astype(np.float64)
    known = range(len(values)) if imputer.keep_empty_features else np.flatnonzero(~np.isnan(values))
    filled = Columns.of(graph.add("Where", mask, values, matrix), len(values)).pick(known)
    if not imputer.add_indicator:
        return filled
    flags = Columns.of(graph.add("Cast", mask, to=DOUBLE), len(values)).pick(imputer.indicator_.features_)
    return side_by_side(graph, [filled, flags])


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and np.isnan(value)


@converts("sklearn.OneHotEncoder", "sklearn.OrdinalEncoder", "sklearn.TargetEncoder")
def _encoder(graph: Graph, encoder: Any, table: Columns) -> Columns:
    """Each output column depends on one input column: the encoder encodes each category once, into a lookup table."""
    categories = encoder.categories_
    if sum(map(len, categories)) > MAX_CATEGORIES:
        raise Unsupported(f"{type(encoder).__name__} with more than {MAX_CATEGORIES:,} categories is not converted")
    for known, (text, _) in zip(categories, table.places, strict=True):
        if not text and any(is_missing(value) for value in known):
            raise Unsupported(f"{type(encoder).__name__} with a missing number as a category is not converted")
    first = [known[0] for known in categories]
    for index, known in enumerate(categories):
        _check_dates(known, next(iter(table.pick([index]).given_dtypes()), ""))
    base = _encoded(encoder, [first])
    owner = np.zeros(base.shape[1], dtype=int)
    blocks = []
    for index, known in enumerate(categories):
        block = _encoded(encoder, [[*first[:index], value, *first[index + 1 :]] for value in known])
        unknown = _unknown(encoder, first, index)
        changing = block if unknown is None else np.concatenate([block, unknown])
        owner[(changing != base).any(axis=0)] = index
        blocks.append((block, unknown))
    parts: list[str] = []
    order: list[int] = []
    for index, (block, unknown) in enumerate(blocks):
        mine = np.flatnonzero(owner == index)
        if not len(mine):
            continue
        none = np.zeros((1, len(mine))) if unknown is None else unknown[:, mine]
        parts.append(looked_up(graph, table.pick([index]), categories[index], block[:, mine], none))
        order.extend(mine)
    return Columns.of(graph.concat(parts), base.shape[1]).pick(np.argsort(order))


def _check_dates(known: Array, dtype: str) -> None:
    """Raise :class:`Unsupported` if a column has dates and its categories have not, or other ones."""
    if known.dtype.kind == "M" and not np.array_equal(known.astype(np.float64).astype(np.int64), known.view(np.int64)):
        raise Unsupported("dates that are not exact as floating-point numbers are not converted")
    if (str(known.dtype) if known.dtype.kind == "M" else "") != (dtype if is_date(dtype) else ""):
        raise Unsupported("dates whose categories have another unit are not converted")


def looked_up(graph: Graph, column: Columns, known: Array, values: Array, unknown: Array) -> str:
    """Return the row of ``values`` ([categories, columns]) for the category in the column, else ``unknown``."""
    name, is_text = column.column(graph, 0)
    known = _texts(known) if is_text else known.astype(np.float64)
    matches = graph.add("Cast", graph.add("Equal", name, known.reshape(1, -1)), to=DOUBLE)
    finite = bool(np.isfinite(values).all())
    if finite:
        rows = graph.add("MatMul", matches, values)
    else:  # the missing number of one category, times zero, would be added to all others
        rows = graph.add("Gather", values, graph.add("ArgMax", matches, axis=1, keepdims=0), axis=0)
    if unknown.any() or not finite:
        none = graph.add("Equal", graph.over_columns("ReduceMax", matches), 0.0)
        rows = graph.add("Where", none, unknown, rows)
    return rows


def _texts(known: Array) -> Array:
    """Return categories as texts of the graph. Raise :class:`Unsupported` for one that may stand for another there."""
    texts: Array = np.empty(len(known), dtype=object)
    if any(isinstance(value, str) and value[:1] == MISSING_TEXT[0] for value in known):
        raise Unsupported("a text that begins with the character U+001F is not converted")
    texts[:] = [MISSING_TEXT if is_missing(value) else str(value) for value in known]
    return texts


def _encoded(encoder: Any, rows: list[list[Any]]) -> Array:
    table: Any = np.empty((len(rows), len(rows[0])), dtype=object)
    table[:] = rows
    if any(known.dtype.kind == "M" for known in encoder.categories_):
        table = _frame(encoder, table)
    encoded = encoder.transform(table)
    return np.asarray(encoded.toarray() if hasattr(encoded, "toarray") else encoded, dtype=np.float64)


def _frame(encoder: Any, table: Array) -> Any:
    """Return a table as the DataFrame that the encoder was fitted on: an array has no dates beside other values."""
    pandas = library("pandas")
    names = getattr(encoder, "feature_names_in_", range(table.shape[1]))
    columns = zip(names, table.T, encoder.categories_, strict=True)
    return pandas.DataFrame(
        {
            name: pandas.Series(values, dtype=known.dtype if known.dtype.kind == "M" else object)
            for name, values, known in columns
        }
    )


def _unknown(encoder: Any, first: list[Any], index: int) -> Array | None:
    """Return how the encoder encodes an unknown value, [columns]; None if it rejects it."""
    known = encoder.categories_[index]
    value: Any
    if known.dtype.kind == "M":
        value = known.max() + 1  # of its unit
    else:
        value = UNKNOWN_TEXT if isinstance(known[0], str) else float(np.abs(known.astype(np.float64)).max()) + 1
    changed = [*first[:index], value, *first[index + 1 :]]
    try:
        return _encoded(encoder, [changed])
    except ValueError:
        return None


@converts("sklearn.KBinsDiscretizer")
def _k_bins(graph: Graph, bins: Any, table: Columns) -> Columns:
    parts = []
    for index, edges in enumerate(bins.bin_edges_):
        column, _ = table.column(graph, index)
        reached = graph.add("LessOrEqual", edges[1:-1].reshape(1, -1), column)
        parts.append(graph.over_columns("ReduceSum", graph.add("Cast", reached, to=DOUBLE)))
    binned = Columns.of(graph.concat(parts), len(parts))
    return binned if bins.encode == "ordinal" else _encoder(graph, bins._encoder, binned)


@converts("sklearn.FunctionTransformer")
def _function(graph: Graph, transformer: Any, table: Columns) -> Columns:
    if transformer.func is None:
        return table
    if transformer.kw_args:
        raise Unsupported("a function with arguments is not converted")
    function = getattr(transformer.func, "function", transformer.func)  # of a prepare.Arithmetic
    if not all(in_double(function, np.dtype(dtype)) for dtype in others_of(table)):
        raise Unsupported("a function that computes with integers is not converted")
    return Columns.of(elementwise(graph, function, table.matrix(graph)), len(table.places))


def elementwise(graph: Graph, function: Any, values: str) -> str:
    """Apply a numpy function to each value."""
    if not isinstance(function, np.ufunc):
        raise Unsupported("a function of the user is not converted")
    simple = {"log": "Log", "exp": "Exp", "sqrt": "Sqrt", "absolute": "Abs"}.get(function.__name__)
    if simple:
        return graph.add(simple, values)
    if function.__name__ == "log1p":  # Kahan's method: the quotient corrects the rounding of 1 + x
        more = graph.add("Add", values, 1.0)
        quotient = graph.add("Div", values, graph.add("Sub", more, 1.0))
        exact = graph.add("Mul", graph.add("Log", more), quotient)
        return graph.add("Where", graph.add("Equal", more, 1.0), values, exact)
    if function.__name__ == "expm1":
        power = graph.add("Exp", values)
        less = graph.add("Sub", power, 1.0)
        exact = graph.add("Mul", less, graph.add("Div", values, graph.add("Log", power)))
        small = graph.add("Where", graph.add("Equal", power, 1.0), values, exact)
        return graph.add("Where", graph.add("Less", graph.add("Abs", values), 1.0), small, less)
    raise Unsupported(f"the function {function.__name__} is not converted")


@converts("sklearn.ColumnTransformer", checks=False)
def _column_transformer(graph: Graph, union: Any, table: Columns) -> Columns:
    parts = []
    for name, step, selected in union.transformers_:
        positions = union._transformer_to_input_indices.get(name, [])
        if (isinstance(step, str) and step == "drop") or not len(positions):
            continue
        is_series = isinstance(selected, (str, int, np.integer))
        picked = replace(table.pick(positions), is_frame=table.is_frame and not is_series)
        parts.append(_weighted(graph, union, name, _step(graph, step, picked)))
    return side_by_side(graph, parts)


@converts("sklearn.FeatureUnion", checks=False)
def _feature_union(graph: Graph, union: Any, table: Columns) -> Columns:
    parts = [
        _weighted(graph, union, name, _step(graph, step, table))
        for name, step in union.transformer_list
        if not (isinstance(step, str) and step == "drop")
    ]
    return side_by_side(graph, parts)


def _step(graph: Graph, step: Any, table: Columns) -> Columns:
    return table if isinstance(step, str) else transform(graph, step, table)  # "passthrough"


def _weighted(graph: Graph, union: Any, name: str, part: Columns) -> Columns:
    weight = (union.transformer_weights or {}).get(name)
    if weight is None:
        return part
    return replace(
        Columns.of(graph.add("Mul", part.matrix(graph), float(weight)), len(part.places)), single=part.single
    )
