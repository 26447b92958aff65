"""Read a pickle as data: an interpreter that rebuilds objects of listed types and calls nothing that the file chose.

Python's own unpickler gives a file the objects that it names, and the file then calls them. This one gives it only a
:class:`Named`, a name without the object, which nothing can call, now or later. A name becomes an object in three ways:
as an instance of a listed class, created without its constructor; by a constructor of :mod:`.rebuild`, which checks its
arguments; or as a listed value that is harmless to call (a numpy function, a number type). Of any other name the file
gets an :class:`Unlisted`, which stands for no object; the file is refused, unless only a listed attribute has it that
the model's training used and no prediction reads. Each opcode also checks the
object that it changes, so a file can change neither a class nor a function.

The same interpreter reads joblib's format (a pickle with the bytes of arrays between its opcodes), nested pickles of
object arrays included.
"""

from __future__ import annotations

import copy
import functools
import math
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from mlmodel_server import registry
from mlmodel_server.errors import RefusedModel, Unreadable
from mlmodel_server.formats.table import library
from mlmodel_server.loading import rebuild
from mlmodel_server.loading.named import Named, Unlisted, resolve
from mlmodel_server.registry.entry import ABSENT

MAX_OPCODES = 30_000_000
"""Maximum for one file, nested pickles included: a compressed file can contain billions, each an object in memory."""

_CHUNK = 1 << 24
_UNSUPPORTED = (
    pickle.INST, pickle.OBJ, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID, pickle.BINPERSID,
)  # fmt: skip


OLD_PROTOCOL = ("copy_reg._reconstructor", "copyreg._reconstructor")
"""What pickles of protocol 0 and 1 call for every object."""

TOO_MUCH = "it unpacks to more than the limit for a file of its size, so compress it less"


class Stream:
    """A stream that raises ValueError after ``limit`` bytes."""

    def __init__(self, stream: Any, limit: int) -> None:
        self._stream, self.left = stream, limit

    def _count(self, data: bytes) -> bytes:
        self.left -= len(data)
        if self.left < 0:
            raise Unreadable(TOO_MUCH)
        return data

    def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes; all of them if it is negative."""
        return self._count(self._stream.read(size if 0 <= size <= self.left else self.left + 1))

    def readline(self) -> bytes:
        """Return the bytes up to the next line feed, with it."""
        return self._count(self._stream.readline(self.left + 1))


class _Budget(dict[int, Callable[[Any], None]]):
    """The opcodes of one file, counted at each lookup."""

    left = MAX_OPCODES

    def __getitem__(self, opcode: int) -> Callable[[Any], None]:
        self.spend(1)
        return super().__getitem__(opcode)

    def spend(self, count: int) -> None:
        """Count ``count`` opcodes, or as much work."""
        self.left -= count
        if self.left < 0:
            raise Unreadable("it unpacks to more than the limit")


_Unpickler: Any = pickle._Unpickler  # the implementation in Python, whose opcodes can be replaced


class Interpreter(_Unpickler):  # type: ignore[misc]
    """Reads one pickle. ``refuse`` makes the error for a global that the file may not use. ``outer`` is the one that
    reads the file, if this one reads a pickle inside it."""

    dispatch: ClassVar[dict[int, Any]] = dict(_Unpickler.dispatch)

    def __init__(self, stream: Stream, refuse: Callable[[str], RefusedModel], outer: Interpreter | None = None) -> None:
        super().__init__(stream)
        self._stream, self._refuse, self._outer = stream, refuse, outer
        self._opcodes: _Budget = outer._opcodes if outer else _Budget(type(self).dispatch)
        self._unlisted: dict[int, Unlisted] = outer._unlisted if outer else {}
        self._values: set[int] = set()
        self.dispatch = self._opcodes  # type: ignore[misc]  # load() looks every opcode up in it

    def load(self) -> Any:
        """Return the object in the file."""
        model = super().load()
        if self._outer is None and self._unlisted:
            raise self._refuse(next(iter(self._unlisted.values())).name)
        return model

    def find_class(self, module: str, name: str) -> Any:
        """Return what a file gets for a global: its name, or the object if it is harmless to call."""
        module = registry.MOVED.get(module, module)
        kind = registry.kinds().get((module, name))
        if kind is None:
            return self._made(f"{module}.{name}")
        named = Named(module, name)
        if kind != "value":
            return named
        value = resolve(named)
        self._values.add(id(value))
        return value

    def _made(self, name: str, *inside: Any) -> Unlisted:
        unlisted = Unlisted(name, *inside)
        self._unlisted[id(unlisted)] = unlisted  # which keeps it, so that no other object gets its id
        return unlisted

    def _class(self, named: Any) -> Any:
        if not isinstance(named, Named):
            raise self._refuse(f"a call to {_describe(named)}")
        cls = resolve(named) if registry.kinds()[named.module, named.name] == "class" else None
        if not isinstance(cls, type):
            raise self._refuse(f"an instance of {named}")
        return cls

    def load_reduce(self) -> None:
        """REDUCE calls a function: only one of :mod:`.rebuild`, which checks its arguments."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if isinstance(function, Unlisted):
            if function.name in OLD_PROTOCOL:
                raise self._refuse(function.name)
            self.stack.append(self._made(function.name, function, arguments))
            return
        if str(function) == rebuild.PARTIAL and [str(argument) for argument in arguments] != [rebuild.VALIDATION]:
            raise self._refuse(rebuild.PARTIAL)
        constructor = rebuild.constructor(function) if isinstance(function, Named) else None
        if constructor is None or type(arguments) is not tuple:
            raise self._refuse(f"a call to {_describe(function)}")
        self.stack.append(constructor(*arguments))

    def load_newobj(self) -> None:
        """NEWOBJ creates an instance without its constructor: only of a listed class, and without arguments.

        A named tuple has its items as arguments.
        """
        arguments, named = self.stack.pop(), self.stack.pop()
        if isinstance(named, Unlisted):
            self.stack.append(self._made(named.name, named, arguments))
            return
        cls = self._class(named)
        fields = getattr(cls, "_fields", ()) if issubclass(cls, tuple) else ()
        if type(arguments) is not tuple or len(arguments) != len(fields):
            raise self._refuse(f"a call to {named}")
        self.stack.append(tuple.__new__(cls, arguments) if fields else cls.__new__(cls))

    def load_newobj_ex(self) -> None:
        """NEWOBJ_EX is NEWOBJ with keywords."""
        keywords = self.stack.pop()
        if isinstance(self.stack[-2], Unlisted):
            self.stack[-1] = (self.stack[-1], keywords)
        elif keywords != {}:
            raise self._refuse(f"a call to {_describe(self.stack[-2])}")
        self.load_newobj()

    def load_build(self) -> None:
        """BUILD sets the state of an instance, never of a class or function."""
        state, instance = self.stack[-1], self.stack[-2]
        if isinstance(instance, Unlisted):
            instance.inside.append(self.stack.pop())
            return
        if isinstance(instance, (type, Named)) or id(instance) in self._values:
            raise self._refuse(f"a change to {_describe(instance)}")
        self._replace_unneeded(instance, state)
        rebuild.check_state(instance, state)
        if isinstance(instance, functools.partial):
            self.stack[-1] = rebuild.partial_state(state)
        super().load_build()
        if isinstance(instance, np.dtype):
            rebuild.checked_dtype(instance)
        elif isinstance(instance, _wrapper()):
            self.stack[-1] = self._array(instance)

    def _replace_unneeded(self, instance: Any, state: Any) -> None:
        """Replace what only the training used in the state of an instance, if it has an object that is not listed."""
        entry = registry.entry_of(type(instance)) if self._unlisted and type(state) is dict else None
        for name, value in entry.unneeded.items() if entry else ():
            found = self._unlisted_in(state[name]) if name in state else []
            if found:
                if value is ABSENT:
                    del state[name]
                else:
                    state[name] = copy.copy(value)
                for unlisted in found:
                    self._unlisted.pop(id(unlisted), None)

    def _unlisted_in(self, value: Any) -> list[Unlisted]:
        """Return all that is not listed in the plain containers and estimators of ``value``."""
        seen: dict[int, Any] = {}
        found: list[Unlisted] = []
        stack = [value]
        while stack:
            part = stack.pop()
            if id(part) in seen:
                continue
            seen[id(part)] = part
            if isinstance(part, Unlisted):
                found.append(part)
                stack += part.inside
            elif isinstance(part, dict):
                stack += part.values()
            elif isinstance(part, (list, tuple)):
                stack += part
            elif isinstance(part, np.ndarray) and part.dtype.hasobject:
                stack += part.ravel().tolist()
            if hasattr(part, "__dict__") and not isinstance(part, type):
                stack += vars(part).values()
        self._opcodes.spend(len(seen))  # a file may let many instances share one large list
        return found

    def load_append(self) -> None:
        """APPEND changes lists only."""
        value = self.stack.pop()
        if isinstance(self.stack[-1], Unlisted):
            self.stack[-1].inside.append(value)
            return
        _require_type(self.stack[-1], list).append(value)

    def load_appends(self) -> None:
        """APPENDS changes lists only."""
        values = self.pop_mark()
        if isinstance(self.stack[-1], Unlisted):
            self.stack[-1].inside.append(values)
            return
        _require_type(self.stack[-1], list).extend(values)

    def load_setitem(self) -> None:
        """SETITEM changes dictionaries only."""
        value, key = self.stack.pop(), self.stack.pop()
        if isinstance(self.stack[-1], Unlisted):
            self.stack[-1].inside += [key, value]
            return
        _require_type(self.stack[-1], dict)[rebuild.key(key)] = value

    def load_setitems(self) -> None:
        """SETITEMS changes dictionaries only."""
        items = self.pop_mark()
        if isinstance(self.stack[-1], Unlisted):
            self.stack[-1].inside.append(items)
            return
        dictionary = _require_type(self.stack[-1], dict)
        for index in range(0, len(items), 2):
            dictionary[rebuild.key(items[index])] = items[index + 1]

    def load_dict(self) -> None:
        """DICT makes a dictionary of the items above the mark."""
        items = self.pop_mark()
        self.stack.append({rebuild.key(items[i]): items[i + 1] for i in range(0, len(items), 2)})

    def load_additems(self) -> None:
        """ADDITEMS changes sets only."""
        items = self.pop_mark()
        _require_type(self.stack[-1], set).update(map(rebuild.key, items))

    def load_frozenset(self) -> None:
        """FROZENSET makes a set of the items above the mark."""
        self.stack.append(frozenset(map(rebuild.key, self.pop_mark())))

    def load_bytearray8(self) -> None:
        """BYTEARRAY8 reads before it allocates, so a forged length takes no memory."""
        size = int.from_bytes(self.read(8), "little")
        self.stack.append(bytearray(self.read(size)))

    def load_unsupported(self) -> None:
        """Reject what no model file needs: classes of Python 2, copyreg's extension codes, objects outside the file."""
        raise Unreadable("it uses a part of pickle that no model needs")

    def _array(self, wrapper: Any) -> Any:
        """Read the array whose bytes follow its description in a joblib file."""
        dtype, shape = rebuild.checked_dtype(wrapper.dtype), rebuild.checked_shape(wrapper.shape)
        if dtype.hasobject:
            nested = Interpreter(self._stream, self._refuse, self).load()
            if not isinstance(nested, np.ndarray):
                raise Unreadable("it declares an array, but another object follows")
            return nested
        if getattr(wrapper, "numpy_array_alignment_bytes", None) is not None:
            self._stream.read(self._stream.read(1)[0])
        size = math.prod(shape) * dtype.itemsize
        if size > self._stream.left or (not dtype.itemsize and math.prod(shape) > _CHUNK):
            raise Unreadable(TOO_MUCH)
        filled, parts = 0, []
        while filled < size:  # in parts, to allocate only for bytes that exist
            part = self._stream.read(min(_CHUNK, size - filled))
            if not part:
                raise Unreadable("it ends within an array")
            parts.append(part)
            filled += len(part)
        array = np.frombuffer(bytearray().join(parts), dtype) if dtype.itemsize else np.zeros(math.prod(shape), dtype)
        array = array.reshape(shape, order="F" if wrapper.order == "F" else "C")
        return array.astype(dtype.newbyteorder("="), copy=False)


Interpreter.dispatch |= {
    opcode[0]: method
    for opcode, method in (
        (pickle.REDUCE, Interpreter.load_reduce),
        (pickle.NEWOBJ, Interpreter.load_newobj),
        (pickle.NEWOBJ_EX, Interpreter.load_newobj_ex),
        (pickle.BUILD, Interpreter.load_build),
        (pickle.APPEND, Interpreter.load_append),
        (pickle.APPENDS, Interpreter.load_appends),
        (pickle.SETITEM, Interpreter.load_setitem),
        (pickle.SETITEMS, Interpreter.load_setitems),
        (pickle.DICT, Interpreter.load_dict),
        (pickle.ADDITEMS, Interpreter.load_additems),
        (pickle.FROZENSET, Interpreter.load_frozenset),
        (pickle.BYTEARRAY8, Interpreter.load_bytearray8),
        *((opcode, Interpreter.load_unsupported) for opcode in _UNSUPPORTED),
    )
}


def _wrapper() -> type:
    return library("joblib.numpy_pickle").NumpyArrayWrapper  # type: ignore[no-any-return]


def _require_type(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise Unreadable(f"it uses a {type(value).__name__} as a {kind.__name__}")
    return value


def _describe(value: Any) -> str:
    if isinstance(value, Named):
        return str(value)
    name = getattr(value, "__name__", None)
    return f"{getattr(value, '__module__', 'numpy')}.{name}" if isinstance(name, str) else type(value).__name__
