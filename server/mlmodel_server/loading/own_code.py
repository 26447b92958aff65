"""Modules of the author's own code, which a package contains: they are imported from bytes that were verified.

A pickle names the classes of its objects, and Python would import their modules from wherever ``sys.path`` leads. Here
a module of the package comes from the package's own bytes, and every other module from an installed library: no file
beside the model is ever imported, and no module of a package takes the place of a library or of a part of Python.

The modules run in the process that opens the model, so :mod:`.load` calls this only for a package whose signature was
verified, or with ``--allow-unsafe``.
"""

from __future__ import annotations

import importlib
import importlib.util
import keyword
import os
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from mlmodel_server.errors import SIGNING, RefusedModel
from mlmodel_server.texts import guess, reason_of

PREFIX, SUFFIX, _INIT = "code.", ".py", ".__init__"
"""``code.text.py`` is the module ``text``, ``code.shop.__init__.py`` the package ``shop`` and ``code.shop.text.py`` its
module ``shop.text``: without folders, so that they fit into a ConfigMap."""

HOW = (
    "write the package with package.save(model, X, y, DIR, code=[{module}]), or mlmodel package FILE --data rows.csv "
    f"--code {{module}}.py --out DIR; {SIGNING}"
)
"""How to serve a class of a module that is neither a library nor in the package."""

MOVE = (
    "move it into a module, such as transformers.py, import it from there, fit the model again, and write "
    "the package with package.save(model, X, y, DIR, code=[transformers]), or mlmodel package FILE --data rows.csv "
    "--code transformers.py --out DIR"
)
"""What to do with a class or function of ``__main__``."""


@dataclass(frozen=True)
class Module:
    """The source of a module, or of the ``__init__`` of a package."""

    source: bytes
    is_package: bool


def file_of(module: str, is_package: bool) -> str:
    """Return the name of the file that has the module's source in a package."""
    return f"{PREFIX}{module}{_INIT if is_package else ''}{SUFFIX}"


def is_code(file: str) -> bool:
    """Whether a file of a package is the source of a module."""
    return file.startswith(PREFIX) and file.endswith(SUFFIX)


def tops(files: Mapping[str, Any] | Sequence[str]) -> tuple[str, ...]:
    """Return the names of the modules in these files of a package, without those inside a package."""
    return tuple(sorted({file.removeprefix(PREFIX).partition(".")[0] for file in files if is_code(file)}))


def modules_of(files: Mapping[str, bytes]) -> dict[str, Module]:
    """Return the modules in the files of a package, by their full names.

    Raise :class:`RefusedModel` if one cannot be imported under its name, or would take the place of a library.
    """
    modules: dict[str, Module] = {}
    for file in sorted(filter(is_code, files)):
        stem = file.removeprefix(PREFIX).removesuffix(SUFFIX)
        name = stem.removesuffix(_INIT)
        if name in modules:
            raise RefusedModel(f"the package has the module {name} twice, as a file and as a package: save it again")
        check_name(name)
        modules[name] = Module(files[file], stem.endswith(_INIT))
    for name in modules:
        parent = name.rpartition(".")[0]
        if parent and not (parent in modules and modules[parent].is_package):
            raise RefusedModel(f"the package has the module {name}, but not {file_of(parent, True)}: save it again")
    return modules


def check_name(module: str) -> None:
    """Raise :class:`RefusedModel` unless a package may contain a module of this full name."""
    parts = module.split(".")
    if not all(part.isascii() and part.isidentifier() and not keyword.iskeyword(part) for part in parts):
        raise RefusedModel(f"{module[:80]!r} cannot be imported: give the module a name of letters, digits and _")
    if is_library(parts[0]) or parts[0] == "__main__":
        raise RefusedModel(
            f"the package has a module {parts[0]}, but {parts[0]} is a library of this server or a part of Python: "
            f"rename the module, fit the model again and save it with the renamed module"
        )


@cache
def is_library(top: str) -> bool:
    """Whether a module is a part of Python, of this project, or of an installed library."""
    if top in sys.stdlib_module_names or top in sys.builtin_module_names or top == __name__.partition(".")[0]:
        return True
    try:
        return PathFinder.find_spec(top, _library_paths()) is not None
    except (ImportError, ValueError):
        return False


@cache
def _library_paths() -> list[str]:
    paths = [*site.getsitepackages(), site.getusersitepackages()]
    return list(dict.fromkeys((*paths, *(sysconfig.get_paths()[kind] for kind in ("purelib", "platlib")))))


@contextmanager
def importable(modules: Mapping[str, Module]) -> Iterator[None]:
    """Import the modules of a package, and inside the context nothing but them and libraries.

    The modules stay importable, because a model may import one when it predicts. Raise :class:`RefusedModel` if a
    module raises, or is neither a library nor in the package.
    """
    _FINDER.replace(modules)
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    guard = _Guard()
    sys.meta_path.insert(sys.meta_path.index(_FINDER) + 1, guard)  # a library may have put its own finder before both
    try:
        for name in sorted(modules):
            _import(name)
        yield
    except _NotListed as error:
        raise error.refused(None) from None
    finally:
        sys.meta_path.remove(guard)


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except _NotListed as error:
        raise error.refused(name) from None
    except (Exception, SystemExit) as error:
        raise RefusedModel(
            f"the package's module {name} cannot be imported ({reason_of(error)}): correct the module, and write the "
            f"package again with package.save(model, X, y, DIR, code=[{name.partition('.')[0]}])"
        ) from None


class _NotListed(ModuleNotFoundError):
    """A module that is neither a library nor in the package."""

    def refused(self, importer: str | None) -> RefusedModel:
        module = str(self.name).partition(".")[0]
        shown = module if module.isascii() and module.isidentifier() and len(module) <= 80 else "a module"
        if importer:
            top = importer.partition(".")[0]
            return RefusedModel(
                f"the package's module {importer} imports {shown}, which is neither a library of this server nor in "
                f"the package: write the package again with code=[{top}, {shown}] (--code {top}.py --code {shown}.py), "
                f"or use a server image in which {shown} is installed"
            )
        return RefusedModel(
            f"the model has a class or function of the module {shown}, which is neither a library of this server nor "
            f"in the package: {HOW.format(module=shown)}"
        )


class _Finder(MetaPathFinder, InspectLoader):
    """Finds and loads the modules of a package."""

    def __init__(self) -> None:
        self._modules: Mapping[str, Module] = {}

    def replace(self, modules: Mapping[str, Module]) -> None:
        """Take the modules of another package. Those of the former one are no longer importable."""
        if modules == self._modules:
            return
        for name, module in list(sys.modules.items()):
            if getattr(getattr(module, "__spec__", None), "loader", None) is self:
                del sys.modules[name]
        for name in modules:
            if name in sys.modules:
                raise RefusedModel(
                    f"this process has imported another module {name} than that of the package: rename the module, fit "
                    f"the model again and save it with the renamed module"
                )
        self._modules = modules

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to load a module of the package; None if it is of no package."""
        module = self._modules.get(fullname)
        if module is not None:
            return importlib.util.spec_from_loader(fullname, self, is_package=module.is_package)
        if fullname.partition(".")[0] in self._modules:  # no other finder may add to a package
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None

    def get_source(self, fullname: str) -> str:
        """Return the verified source as text."""
        return importlib.util.decode_source(self._modules[fullname].source)

    def get_code(self, fullname: str) -> CodeType:
        """Return the verified source, compiled. No compiled file is read or written."""
        module = self._modules[fullname]
        return self.source_to_code(module.source, file_of(fullname, module.is_package))

    def is_package(self, fullname: str) -> bool:
        """Whether the module is a package."""
        return self._modules[fullname].is_package


class _Guard(MetaPathFinder):
    """Rejects modules that are neither libraries nor in the package, wherever ``sys.path`` leads."""

    def __init__(self) -> None:
        self._known = frozenset(name.partition(".")[0] for name in sys.modules)

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return None for a library, which the other finders find; raise for any other module."""
        top = fullname.partition(".")[0]
        if top not in self._known and not is_library(top):
            raise _NotListed(f"No module named {fullname!r}", name=fullname)
        return None


_FINDER = _Finder()


def sources(code: Sequence[ModuleType | str | os.PathLike[str]]) -> dict[str, bytes]:
    """Return the files of a package for modules, which are given as objects or by their paths.

    Raise :class:`RefusedModel` with what to change for one that is not pure Python, or that cannot be read.
    """
    files: dict[str, bytes] = {}
    for given in code:
        files |= _files(_path_of(given))
    modules_of(files)
    return files


def _path_of(given: ModuleType | str | os.PathLike[str]) -> Path:
    """Return the file of a module, or the directory of the package that it belongs to."""
    if not isinstance(given, ModuleType):
        return Path(given)
    name = given.__name__
    if name == "__main__":
        raise RefusedModel(f"code has __main__, which only the script or notebook itself has: {MOVE}")
    top = sys.modules.get(name.partition(".")[0], given)
    file = getattr(top, "__file__", None)
    if not file:
        raise RefusedModel(f"the module {top.__name__} has no source file: give code=[…] a module of Python source")
    path = Path(file)
    return path.parent if path.name == "__init__.py" else path


def _files(path: Path) -> dict[str, bytes]:
    try:
        if path.is_file():
            if path.suffix != SUFFIX:
                raise RefusedModel(
                    f"{path.name} is not Python source: give code=[…] (--code) a .py file or a package directory"
                )
            return {file_of(path.stem, False): path.read_bytes()}
        if not (path / "__init__.py").is_file():
            similar = guess(path.name, [file.name for file in path.resolve().parent.glob(f"*{SUFFIX}")])
            raise RefusedModel(
                f"{path.name} is neither a .py file nor a directory with an __init__.py{similar}: give code=[…] "
                "(--code) the path of one, or code=[…] the module itself"
            )
        return dict(_package(path.resolve()))
    except OSError as error:
        raise RefusedModel(f"{path.name} cannot be read ({error.strerror}): check its permissions") from None


def _package(directory: Path) -> Iterator[tuple[str, bytes]]:
    for folder, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if name.isidentifier() and name != "__pycache__")
        relative = Path(folder).relative_to(directory.parent)
        if "__init__.py" not in names:
            folders[:] = []
            continue
        for name in sorted(names):
            if name.endswith((".so", ".pyd", ".dll", ".dylib")):
                raise RefusedModel(
                    f"{directory.name} has compiled code ({name[:80]}): give code=[…] only Python source, and add "
                    "compiled libraries to the image of the server"
                )
            if name.endswith(SUFFIX):
                module = ".".join((*relative.parts, name.removesuffix(SUFFIX)))
                is_package = name == "__init__.py"
                yield (
                    file_of(module.removesuffix(_INIT) if is_package else module, is_package),
                    (Path(folder) / name).read_bytes(),
                )
