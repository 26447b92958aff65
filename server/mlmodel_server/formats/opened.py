"""What every format's module returns: functions on tables, and what the artefact declares about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from mlmodel_server.errors import RefusedModel
from mlmodel_server.manifest import Signature
from mlmodel_server.tensors import DTYPES, Array, TensorSpec, text_of

Table = Array | Mapping[str, Array]
"""The rows of one or several requests. For the layouts ``columns`` and ``matrix`` one array of shape [rows, columns]:
numbers, or objects if a column contains text. For the layout ``tensors`` one array per input, as it was sent, in the
order of the signature."""

PREDICT = "predict"
PREDICT_PROBA = "predict_proba"
MATRIX = "input-0"
"""The input of a table whose columns have no names."""

FILLS = (0.0, 1.0, 0.5)
"""Numbers to try, one after the other, for the columns of an example of which nothing is known."""

_UNPACKED, _UNPACKED_PER_BYTE, _MAX_UNPACKED = 128 << 20, 32, 4 << 30


def max_unpacked(size: int) -> int:
    """Return how many bytes a compressed file of ``size`` bytes may unpack to. More is a bomb, or needs less
    compression."""
    return min(_MAX_UNPACKED, _UNPACKED + _UNPACKED_PER_BYTE * size)


_MEASURED_ROWS, _MEASURED_SECONDS = 64, 0.1


def names_of_classes(classes: Iterable[Any]) -> tuple[str, ...]:
    """Return the classes of a classifier as texts. Raise :class:`RefusedModel` if no response can have one of them."""
    try:
        names = tuple(map(text_of, classes))
        "".join(names).encode()
    except UnicodeError:
        raise RefusedModel(
            "one of its classes has half of a surrogate pair, or bytes that are not UTF-8, which no response can have: "
            "rename it, and fit again"
        ) from None
    return names


def measured_rows(seconds: float) -> int:
    """Return how many rows the server predicts at the start to learn what several take, if one takes ``seconds``. Time
    bounds memory too: a large model may need 100 MB for each row."""
    return max(1, min(_MEASURED_ROWS, int(_MEASURED_SECONDS / max(seconds, 1e-9))))


CONTRIBUTIONS = "contributions"
"""The output of :attr:`Opened.explain`."""

Task = Literal["classification", "regression", "other"]


DATATYPES = {str(dtype): datatype for datatype, dtype in DTYPES.items() if datatype != "BYTES"} | {"string": "BYTES"}
"""The protocol's datatype for the names of types in numpy and most libraries; text is ``string``."""


class Functions(Protocol):
    """The prediction functions of a model. Safe to call from several threads: predicting changes nothing."""

    def __call__(self, table: Table, outputs: Sequence[str], /) -> list[Array]:
        """Return one array for each of ``outputs``, in that order. May raise anything: the caller turns it into a
        :class:`~mlmodel_server.errors.ModelFailure`."""
        ...


@dataclass(frozen=True)
class Artefact:
    """The files of one model, read and checked; ``name`` is the entry file, a key of ``files``.

    The names are relative to the model's own directory, with ``/`` between folders.
    """

    name: str
    files: Mapping[str, bytes]

    @property
    def data(self) -> bytes:
        """The content of the entry file."""
        return self.files[self.name]


@dataclass(frozen=True)
class UnplacedCategories:
    """Categories of a DataFrame in an artefact that does not say in which columns they are.

    ``lists`` are the categories of each such column, in the order of the columns, and ``names`` all columns.
    ``placed`` returns the model with the categories in the columns of these positions, one for each list; it raises
    :class:`~mlmodel_server.errors.RefusedModel` if they do not fit.
    """

    lists: Sequence[Sequence[Any]]
    names: Sequence[str]
    placed: Callable[[Sequence[int]], Opened]


@dataclass(frozen=True)
class Opened:
    """An opened artefact.

    ``signature`` has the inputs and outputs that the artefact declares; None if only a package can declare them.
    ``estimator`` is the scikit-learn estimator, and ``booster`` a :class:`~.boosters.Boosted`; either can be compiled.
    ``example`` are values of columns, by position, that the model knows; in the others 0, "" or false is as good.
    ``saved_with`` are the versions of the libraries that wrote the artefact, if it says so.
    ``explain`` returns one output, ``contributions`` of shape [rows, features + 1]: how much each feature adds to the
    raw score of a row, and last the base score of every row; for a model with several raw scores [rows, scores,
    features + 1]. ``rows`` is what the estimator takes: see :mod:`.documents`. ``by_row`` is whether the answer to a
    row is the same beside other rows. ``single`` is whether the library itself rounds each number of an FP32 input to
    single precision, also an integer. ``like_dates`` are columns of numbers that may have been dates in training.
    """

    format: str
    platform: str
    functions: Functions
    signature: Signature | None = None
    task: Task = "other"
    estimator: Any = None
    booster: Any = None
    explain: Functions | None = None
    example: Mapping[int, Any] = field(default_factory=dict)
    saved_with: Mapping[str, str] = field(default_factory=dict)
    categories: UnplacedCategories | None = None
    rows: Literal["table", "texts", "dictionaries"] = "table"
    by_row: bool = True
    single: bool = False
    like_dates: tuple[str, ...] = ()


def layout_of(inputs: Sequence[TensorSpec]) -> Literal["matrix", "tensors"]:
    """Return the layout of a model of tensors: ``matrix`` for one input that is a table of any number of rows."""
    only = inputs[0]
    numbers = only.datatype.startswith(("FP", "INT", "UINT"))
    table = len(only.shape) == 2 and only.shape[0] == -1 and only.shape[1] > 0
    return "matrix" if len(inputs) == 1 and numbers and table else "tensors"


def parts(content: Any) -> Iterator[Any]:
    """Yield every value of a JSON document: itself, and all values in its lists and objects, nested to any depth."""
    stack = [content]
    while stack:
        part = stack.pop()
        yield part
        if isinstance(part, list):
            stack += part
        elif isinstance(part, dict):
            stack += part.values()
