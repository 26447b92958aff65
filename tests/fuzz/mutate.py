"""Write a model as joblib does, with one change: an array, a number, a list or a dictionary of its state."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from joblib.numpy_pickle import NumpyPickler


def _resized(array: Any, length: int) -> Any:
    return np.resize(array, (length, *array.shape[1:])) if array.ndim and array.size else array


def _one(array: Any, random: np.random.Generator, value: Any) -> Any:
    """Return a copy in which one item has another value."""
    changed = array.copy()
    if changed.size:
        if changed.dtype.names:
            changed = changed.reshape(-1)
            name = str(random.choice(changed.dtype.names))
            item = changed[name][random.integers(changed.size)]
            with np.errstate(all="ignore"):
                changed[name][random.integers(changed.size)] = np.asarray(value(item)).astype(
                    changed[name].dtype, casting="unsafe"
                )
        else:
            place = np.unravel_index(int(random.integers(changed.size)), changed.shape)
            with np.errstate(all="ignore"):
                changed[place] = np.asarray(value(changed[place])).astype(changed.dtype, casting="unsafe")
    return changed


def _numeric(array: Any) -> bool:
    return bool(array.dtype.names) or array.dtype.kind in "biuf"


ARRAYS: dict[str, Callable[[Any, np.random.Generator, list[Any]], Any]] = {
    "shorter": lambda a, _r, _o: a[:-1],
    "half": lambda a, _r, _o: a[: len(a) // 2],
    "empty": lambda a, _r, _o: a[:0],
    "longer": lambda a, _r, _o: _resized(a, len(a) + 1),
    "ten times": lambda a, _r, _o: _resized(a, 10 * len(a)),
    "float32": lambda a, _r, _o: a.astype("f4"),
    "float64": lambda a, _r, _o: a.astype("f8"),
    "int64": lambda a, _r, _o: a.astype("i8"),
    "int32": lambda a, _r, _o: a.astype("i4"),
    "object": lambda a, _r, _o: a.astype(object),
    "complex": lambda a, _r, _o: a.astype(complex),
    "reversed": lambda a, _r, _o: np.ascontiguousarray(a[::-1]),
    "sorted down": lambda a, _r, _o: np.ascontiguousarray(np.sort(a, axis=0)[::-1]),
    "transposed": lambda a, _r, _o: a.T.copy(),
    "fortran": lambda a, _r, _o: np.asfortranarray(a),
    "flat": lambda a, _r, _o: a.reshape(-1),
    "deeper": lambda a, _r, _o: a[None],
    "scalar": lambda a, _r, _o: a.reshape(-1)[0].reshape(()),
    "byte order": lambda a, _r, _o: a.astype(a.dtype.newbyteorder()),
    "bytes swapped": lambda a, _r, _o: a.byteswap(),
    "negative": lambda a, _r, _o: -a,
    "nan": lambda a, r, _o: _one(a, r, lambda _: np.nan),
    "all nan": lambda a, _r, _o: np.full_like(a, np.nan),
    "infinite": lambda a, r, _o: _one(a, r, lambda _: np.inf),
    "next": lambda a, r, _o: _one(a, r, lambda item: item + 1),
    "before": lambda a, r, _o: _one(a, r, lambda item: item - 1),
    "minus": lambda a, r, _o: _one(a, r, lambda item: -item - 1),
    "far": lambda a, r, _o: _one(a, r, lambda _: 1 << 28),
    "very far": lambda a, r, _o: _one(a, r, lambda _: 1 << 45),
    "huge": lambda a, r, _o: _one(a, r, lambda _: 1e300),
    "zeros": lambda a, _r, _o: np.zeros_like(a),
    "another": lambda _a, r, others: others[int(r.integers(len(others)))],
}

NUMBERS: dict[str, Callable[[Any], Any]] = {
    "next": lambda n: n + 1,
    "before": lambda n: n - 1,
    "zero": lambda _: 0,
    "minus": lambda n: -n - 1,
    "far": lambda _: 1 << 20,
    "very far": lambda _: 1 << 40,
    "nan": lambda _: float("nan"),
    "other type": lambda n: str(n),
}

CONTAINERS: dict[str, Callable[[Any], Any]] = {
    "shorter": lambda c: c[:-1],
    "longer": lambda c: [*c, c[-1]],
    "reversed": lambda c: c[::-1],
    "empty": lambda c: c[:0],
}


class _Mutating(NumpyPickler):  # type: ignore[misc]
    """Counts the parts of a model as it writes them, and replaces one."""

    def __init__(self, stream: Any, target: int, change: Callable[[Any], Any] | None) -> None:
        super().__init__(stream, protocol=4)
        self._target, self._change, self._inside = target, change, 0
        self.parts: list[Any] = []
        self._kept: list[Any] = []

    def save(self, obj: Any, **options: Any) -> None:
        """Write ``obj``, or what replaces it."""
        kind = type(obj)
        counted = kind in (np.ndarray, int, float, list, bool) or (kind is tuple and obj and not self._inside)
        if counted and not self._inside and not (kind in (list, tuple) and not obj):
            if len(self.parts) == self._target and self._change is not None:
                obj = self._change(obj)
                self._kept.append(obj)
            self.parts.append(obj)
        if isinstance(obj, (np.ndarray, np.dtype, np.generic)):
            nested = obj.dtype.hasobject if isinstance(obj, np.ndarray) else False
            self._inside += not nested
            try:
                super().save(obj, **options)
            finally:
                self._inside -= not nested
        else:
            super().save(obj, **options)


def parts(model: Any) -> list[Any]:
    """Return the arrays, numbers and lists of a model, in the order in which its file has them."""
    pickler = _Mutating(io.BytesIO(), -1, None)
    pickler.dump(model)
    return pickler.parts


def changes(part: Any) -> list[str]:
    """Return the names of the changes that apply to a part."""
    if isinstance(part, np.ndarray):
        return list(ARRAYS)
    return list(NUMBERS) if isinstance(part, (int, float)) else list(CONTAINERS)


def written(model: Any, known: list[Any], target: int, change: str, seed: int) -> bytes | None:
    """Return the file of ``model`` with one change; None if the change does not apply, or changes nothing."""
    random, part = np.random.default_rng(seed), known[target]
    if isinstance(part, np.ndarray):
        arrays = [other for other in known if isinstance(other, np.ndarray)]
        if change not in ("another",) and (part.ndim == 0 or (not _numeric(part) and "order" in change)):
            return None
        apply = lambda value: ARRAYS[change](value, random, arrays)  # noqa: E731
    else:
        apply = NUMBERS[change] if isinstance(part, (int, float)) else CONTAINERS[change]
    stream, plain = io.BytesIO(), io.BytesIO()
    try:
        with np.errstate(all="ignore"):
            _Mutating(stream, target, apply).dump(model)
        _Mutating(plain, -1, None).dump(model)
    except Exception:  # the change does not apply: an object array has no float32
        return None
    return stream.getvalue() if stream.getvalue() != plain.getvalue() else None
