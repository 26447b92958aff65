"""A pickle read as data: a machine that rebuilds objects of listed types and calls nothing the file chose.

Python's own unpickler hands a file the things it names, and the file then calls them. Here it only ever holds
:class:`Named`, a name without the thing, which nothing can call, at load time or later. Three ways lead from a name to
an object: an instance of a listed class without running its constructor, one of the constructors of :mod:`.rebuild`,
which check their arguments, or a value from the list that is harmless to call (a numpy function, a number type). What
an opcode may do to an object is checked as well, so neither a class nor a function can be changed.

joblib's format (a pickle with the bytes of arrays between its opcodes) is read by the same machine, nested pickles of
object arrays included.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.table import library
from mlmodel_server.loading import allowlist, rebuild
from mlmodel_server.loading.named import Named, resolve

MAX_OPCODES = 30_000_000
"""Of one file, nested pickles included: a compressed file can hold billions, each of them an object in memory."""

_CHUNK = 1 << 24
_MOVED = {"__builtin__": "builtins", "_loss": "sklearn._loss._loss"}  # Python 2; scikit-learn before 1.9
_FOREIGN = (
    pickle.INST, pickle.OBJ, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID, pickle.BINPERSID,
)  # fmt: skip


class Stream:
    """What the machine reads from, with a cap on what it hands out."""

    def __init__(self, stream: Any, limit: int) -> None:
        self._stream, self.left = stream, limit

    def _counted(self, data: bytes) -> bytes:
        self.left -= len(data)
        if self.left < 0:
            raise ValueError("it unpacks to more than the limit")
        return data

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes; all there are when it is negative."""
        return self._counted(self._stream.read(size if 0 <= size <= self.left else self.left + 1))

    def readline(self) -> bytes:
        """Up to and with the next line feed."""
        return self._counted(self._stream.readline(self.left + 1))


class _Budget(dict[int, Callable[[Any], None]]):
    """The opcodes of one file, counted as they are looked up."""

    left = MAX_OPCODES

    def __getitem__(self, opcode: int) -> Callable[[Any], None]:
        self.left -= 1
        if self.left < 0:
            raise ValueError("it unpacks to more than the limit")
        return super().__getitem__(opcode)


_Unpickler: Any = pickle._Unpickler  # the one in Python, of which opcodes can be replaced


class Machine(_Unpickler):  # type: ignore[misc]
    """Reads one pickle. ``refuse`` makes the error for a global that the file may not use."""

    dispatch: ClassVar[dict[int, Any]] = dict(_Unpickler.dispatch)

    def __init__(self, stream: Stream, refuse: Callable[[str], RefusedModel], opcodes: _Budget | None = None) -> None:
        super().__init__(stream)
        self._stream, self._refuse = stream, refuse
        if opcodes is None:
            opcodes = _Budget(type(self).dispatch)
        self._opcodes = opcodes
        self._values: set[int] = set()
        self.dispatch = opcodes  # type: ignore[misc]  # load() looks every opcode up in it

    def find_class(self, module: str, name: str) -> Any:
        """What a file gets for a global: its name, or the thing itself where that is harmless to call."""
        module = _MOVED.get(module, module)
        kind = allowlist.kinds().get((module, name))
        if kind is None:
            raise self._refuse(f"{module}.{name}")
        named = Named(module, name)
        if kind != "value":
            return named
        value = resolve(named)
        self._values.add(id(value))
        return value

    def _class(self, named: Any) -> Any:
        if not isinstance(named, Named):
            raise self._refuse(f"a call of {_described(named)}")
        found = resolve(named) if allowlist.kinds()[named.module, named.name] == "class" else None
        if not isinstance(found, type):
            raise self._refuse(f"an instance of {named}")
        return found

    def load_reduce(self) -> None:
        """REDUCE calls: only what :mod:`.rebuild` knows, with arguments that it has checked."""
        arguments, function = self.stack.pop(), self.stack.pop()
        constructor = rebuild.constructor(function) if isinstance(function, Named) else None
        if constructor is None or type(arguments) is not tuple:
            raise self._refuse(f"a call of {_described(function)}")
        self.stack.append(constructor(*arguments))

    def load_newobj(self) -> None:
        """NEWOBJ makes an instance without its constructor: of a listed class, and without arguments."""
        arguments, named = self.stack.pop(), self.stack.pop()
        cls = self._class(named)
        if arguments != ():
            raise self._refuse(f"a call of {named}")
        self.stack.append(cls.__new__(cls))

    def load_newobj_ex(self) -> None:
        """NEWOBJ_EX: the same, with keywords."""
        if self.stack.pop() != {}:
            raise self._refuse(f"a call of {_described(self.stack[-2])}")
        self.load_newobj()

    def load_build(self) -> None:
        """BUILD sets the state of an instance, never of a class or function."""
        state, instance = self.stack[-1], self.stack[-2]
        if isinstance(instance, (type, Named)) or id(instance) in self._values:
            raise self._refuse(f"a change of {_described(instance)}")
        rebuild.check_state(instance, state)
        super().load_build()
        if isinstance(instance, np.dtype):
            rebuild.checked_dtype(instance)
        elif isinstance(instance, _wrapper()):
            self.stack[-1] = self._array(instance)

    def load_append(self) -> None:
        """APPEND: to lists only."""
        value = self.stack.pop()
        _exactly(self.stack[-1], list).append(value)

    def load_appends(self) -> None:
        """APPENDS: to lists only."""
        values = self.pop_mark()
        _exactly(self.stack[-1], list).extend(values)

    def load_setitem(self) -> None:
        """SETITEM: of dictionaries only."""
        value, key = self.stack.pop(), self.stack.pop()
        _exactly(self.stack[-1], dict)[rebuild.key(key)] = value

    def load_setitems(self) -> None:
        """SETITEMS: of dictionaries only."""
        items = self.pop_mark()
        dictionary = _exactly(self.stack[-1], dict)
        for index in range(0, len(items), 2):
            dictionary[rebuild.key(items[index])] = items[index + 1]

    def load_dict(self) -> None:
        """DICT: a dictionary of what lies above the mark."""
        items = self.pop_mark()
        self.stack.append({rebuild.key(items[i]): items[i + 1] for i in range(0, len(items), 2)})

    def load_additems(self) -> None:
        """ADDITEMS: to sets only."""
        items = self.pop_mark()
        _exactly(self.stack[-1], set).update(map(rebuild.key, items))

    def load_frozenset(self) -> None:
        """FROZENSET: of what lies above the mark."""
        self.stack.append(frozenset(map(rebuild.key, self.pop_mark())))

    def load_bytearray8(self) -> None:
        """BYTEARRAY8: reads before it allocates, so a length that is a lie costs nothing."""
        size = int.from_bytes(self.read(8), "little")
        self.stack.append(bytearray(self.read(size)))

    def load_foreign(self) -> None:
        """What no model file needs: classes of Python 2, copyreg's extension codes, objects outside the file."""
        raise pickle.UnpicklingError("it uses a part of pickle that no model needs")

    def _array(self, wrapper: Any) -> Any:
        """The array whose bytes follow its description in a joblib file."""
        dtype, shape = rebuild.checked_dtype(wrapper.dtype), rebuild.checked_shape(wrapper.shape)
        if dtype.hasobject:
            nested = Machine(self._stream, self._refuse, self._opcodes).load()
            if not isinstance(nested, np.ndarray):
                raise ValueError("it announces an array and holds something else")
            return nested
        if getattr(wrapper, "numpy_array_alignment_bytes", None) is not None:
            self._stream.read(self._stream.read(1)[0])
        size = math.prod(shape) * dtype.itemsize
        if size > self._stream.left or (not dtype.itemsize and math.prod(shape) > _CHUNK):
            raise ValueError("it unpacks to more than the limit")
        filled, parts = 0, []
        while filled < size:  # in parts: memory only for what is really there
            part = self._stream.read(min(_CHUNK, size - filled))
            if not part:
                raise EOFError("it ends within an array")
            parts.append(part)
            filled += len(part)
        array = np.frombuffer(bytearray().join(parts), dtype) if dtype.itemsize else np.zeros(math.prod(shape), dtype)
        array = array.reshape(shape, order="F" if wrapper.order == "F" else "C")
        return array.astype(dtype.newbyteorder("="), copy=False)


Machine.dispatch |= {
    opcode[0]: method
    for opcode, method in (
        (pickle.REDUCE, Machine.load_reduce),
        (pickle.NEWOBJ, Machine.load_newobj),
        (pickle.NEWOBJ_EX, Machine.load_newobj_ex),
        (pickle.BUILD, Machine.load_build),
        (pickle.APPEND, Machine.load_append),
        (pickle.APPENDS, Machine.load_appends),
        (pickle.SETITEM, Machine.load_setitem),
        (pickle.SETITEMS, Machine.load_setitems),
        (pickle.DICT, Machine.load_dict),
        (pickle.ADDITEMS, Machine.load_additems),
        (pickle.FROZENSET, Machine.load_frozenset),
        (pickle.BYTEARRAY8, Machine.load_bytearray8),
        *((opcode, Machine.load_foreign) for opcode in _FOREIGN),
    )
}


def _wrapper() -> type:
    return library("joblib.numpy_pickle").NumpyArrayWrapper  # type: ignore[no-any-return]


def _exactly(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"it treats a {type(value).__name__} as a {kind.__name__}")
    return value


def _described(value: Any) -> str:
    if isinstance(value, Named):
        return str(value)
    name = getattr(value, "__name__", None)
    return f"{getattr(value, '__module__', 'numpy')}.{name}" if isinstance(name, str) else type(value).__name__
