"""Hook files on the disk: their places, checks of their text, and their import.

Reading looks at a file's syntax alone; only ``load`` runs what is in it.
"""

from __future__ import annotations

import ast
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from ..command_watch import HOOKS
from ..config.variables import URL
from ..errors import Fault, HookError
from ..hooks import Hook, registry
from ..remedy import quoted
from ..run.hook_runner import LoadFault
from ..trust import FOREIGN, doubt_of

DIRECTORY = HOOKS
"""Beside ``db/``, in the directory ``confiture`` is run in; a package of this name, too."""
REMEDY = "Correct it; until then its hooks do not run"
SHORTEN = "Keep only hooks in it; until then its hooks do not run"
DOTTED = "has a dot in its name, with which nothing can import it"
LARGEST = 256 * 1024
"""Bytes of a file that is read: to read one of 8 MiB takes minutes, and the run waits for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HookFile:
    """A file of the directory, or a module that the settings name."""

    module: str
    path: Path | None
    """``None`` for a module whose source is not found."""
    fault: Fault | None = None
    reads_url: bool = False
    """Whether it reads CONFITURE_WEBHOOK_URL, and so takes that variable over.

    Itself, or in a private module beside it that it imports.
    """
    is_trusted: bool = True
    """Whether it is this user's or root's, no other user may write it, and it is not too large.

    Else it is not read.
    """

    @property
    def shown(self) -> str:
        return _shown(self.path) if self.path is not None else self.module


def find(project: Path, modules: Sequence[str] = ()) -> list[HookFile]:
    """The hook files of *project* in name order, then *modules* in theirs."""
    directory = project / DIRECTORY
    named = [_module(name, project) for name in modules]
    if not os.path.isdir(directory):  # noqa: PTH112  never raises
        return named
    found = sorted(directory.glob("*.py"))
    paths = [one for one in found if os.path.isfile(one)]  # noqa: PTH113  never raises
    # Importing a file may use the others, and what was compiled before.
    used = [path for one in directory.rglob("*.py") for path in (one.parent, one)] if paths else []
    used += [path / "__pycache__" for path in {*used} if path.suffix != ".py"]
    faults = (fault for path in dict.fromkeys(used) if (fault := _distrust(path, directory)))
    fault = next(faults, None)
    if not os.access(directory, os.R_OK | os.X_OK):
        remedy = f"No hook of it runs. Who may read it: `ls -ld {quoted(_shown(directory))}`"
        fault = Fault(_shown(directory), "is closed to this user", remedy)
    if fault is not None:
        whole = HookFile(module=DIRECTORY, path=directory, fault=fault, is_trusted=False)
        return [whole, *named]
    hidden = [path for path in paths if path.name[0] in "._"]
    private = frozenset(path.stem for path in hidden if _read(path.stem, path).reads_url)
    own = [path for path in paths if path not in hidden]
    return [_read(f"{DIRECTORY}.{path.stem}", path, private) for path in own] + named


def _distrust(path: Path, whole: Path) -> Fault | None:
    """Why what lies at *path*, in *whole*, is not used, if it is not ours alone."""
    try:
        why = doubt_of(path)
    except OSError:  # not there, or it cannot be read, nor imported
        return None
    change = "chown -hR $(id -u)" if why == FOREIGN else "chmod -R go-w"
    command = f"`{change} {quoted(_shown(whole))}`"
    remedy = f"No hook of {_shown(whole)} runs. Read what is there; if you trust it, {command}"
    return Fault(_shown(path), why, remedy) if why else None


def _module(name: str, project: Path) -> HookFile:
    """The module called *name*, found without importing anything."""
    first, *_ = parts = name.split(".")
    spec = None
    with suppress(ImportError, ValueError):  # ``__main__`` and what else was made by hand
        spec = find_spec(first)
    spec = spec or PathFinder.find_spec(first, [str(project)])
    for length in range(2, len(parts) + 1):
        search = spec.submodule_search_locations if spec else None
        spec = PathFinder.find_spec(".".join(parts[:length]), search) if search else None
    if spec is None:
        fault = Fault(f"webhooks.hooks: {name}", "there is no such module", "Install or correct it")
        return HookFile(module=name, path=None, fault=fault)
    origin = Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    if origin is None:
        return HookFile(module=name, path=None)
    for path in _imported_with(origin, project):
        if doubt := _distrust(path, path):
            return HookFile(module=name, path=origin, fault=doubt, is_trusted=False)
    return _read(name, origin)


def _imported_with(origin: Path, project: Path) -> Iterator[Path]:
    """Whatever of *project* decides what runs when *origin* is imported: packages above it too."""
    if not origin.is_relative_to(project):
        return
    yield from (origin, origin.parent, origin.parent / "__pycache__")
    for package in origin.parents:
        if package == project:
            return
        yield from (package, package / "__init__.py", package / "__pycache__")


def _read(module: str, path: Path, private: frozenset[str] = frozenset()) -> HookFile:
    place = _shown(path)
    try:
        if path.stat().st_size > LARGEST:
            fault = Fault(place, f"is larger than {LARGEST // 1024} KiB", SHORTEN)
            return HookFile(module=module, path=path, fault=fault, is_trusted=False)
        reads_url, imported = _parsed(path)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # by the parser
        line = getattr(error, "lineno", None)
        place = f"{place}:{line}" if line else place
        fault = Fault(place, f"is not valid Python ({_reason(error)})", REMEDY)
    except OSError as error:
        fault = Fault(place, f"cannot be read ({type(error).__name__})", REMEDY)
    else:
        if "." not in path.stem:
            # Importing a module of a package imports the package.
            helped = not private.isdisjoint({*imported, "__init__"})
            return HookFile(module=module, path=path, reads_url=reads_url or helped)
        fault = Fault(place, DOTTED, "Rename it")
    return HookFile(module=module, path=path, fault=fault)


def _parsed(path: Path) -> tuple[bool, set[str]]:
    """Whether *path* names the variable, and every part of what it imports."""
    with warnings.catch_warnings():  # the import gives them
        warnings.simplefilter("ignore")
        nodes = list(ast.walk(ast.parse(path.read_bytes(), filename=str(path))))
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [name.name for node in imports for name in node.names]
    names += [node.module or "" for node in imports if isinstance(node, ast.ImportFrom)]
    constants = (node.value for node in nodes if isinstance(node, ast.Constant))
    return URL in constants, {part for name in names for part in name.split(".")}


def _reason(error: BaseException) -> str:
    return str(getattr(error, "msg", None) or type(error).__name__)


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def load(file: HookFile, project: Path) -> list[Hook]:
    """Import *file* and return the hooks it registers. Any error of it is raised as LoadFault."""
    try:
        with _importable(file, project), registry.loading() as found:
            importlib.import_module(file.module)
    except BaseException as error:  # noqa: BLE001  SystemExit and KeyboardInterrupt are theirs too
        raise _fault(file, error) from None
    return found or registry.of(file.module)


@contextmanager
def _importable(file: HookFile, project: Path) -> Iterator[None]:
    """Make *file* importable: the directory as a package, the project behind all other places."""
    is_ours = file.module.startswith(f"{DIRECTORY}.")
    if is_ours:
        _package(project / DIRECTORY)
    if is_ours or str(project) in sys.path:
        yield
        return
    sys.path.append(str(project))
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(str(project))


def _package(directory: Path) -> None:
    """Make ``confiture_hooks`` the package in *directory*, whatever else has that name."""
    known = sys.modules.get(DIRECTORY)
    if known is not None and list(getattr(known, "__path__", ())) == [str(directory)]:
        return
    forget()
    init = directory / "__init__.py"
    package = ModuleType(DIRECTORY)
    if init.is_file():
        spec = spec_from_file_location(DIRECTORY, init, submodule_search_locations=[str(directory)])
        assert spec is not None
        assert spec.loader is not None
        package = module_from_spec(spec)
        sys.modules[DIRECTORY] = package
        try:
            spec.loader.exec_module(package)
        except BaseException:
            del sys.modules[DIRECTORY]  # so that it is each file's trouble, not the first one's
            raise
    package.__path__ = [str(directory)]
    sys.modules[DIRECTORY] = package


def forget() -> None:
    """Let the next run of this process import the directory's files anew."""
    for name in [one for one in sys.modules if one.partition(".")[0] == DIRECTORY]:
        del sys.modules[name]
    registry.forget(DIRECTORY)


def _fault(file: HookFile, error: BaseException) -> LoadFault:
    """The fault of *file* that *error* is, in words that hold nothing of the users'."""
    path, line = _place(file.path, traceback.extract_tb(error.__traceback__))
    if isinstance(error, SyntaxError) and error.filename:
        path, line = Path(error.filename), error.lineno
    problem = f"raised {type(error).__name__} when it was imported"
    if isinstance(error, HookError):
        problem = str(error)
    elif path is not None and "." in path.stem:
        problem = DOTTED
    elif isinstance(error, SyntaxError):
        problem = f"is not valid Python ({_reason(error)})"
    elif isinstance(error, ModuleNotFoundError) and error.name:
        problem = f"imports {error.name}, which is not installed"
    elif isinstance(error, ImportError) and error.name:
        problem = f"imports a name that {error.name} does not have"
    return LoadFault(
        problem,
        file=_shown(path) if path is not None else file.module,
        line=line,
        error_type=type(error).__name__,
    )


def _place(
    path: Path | None, frames: Sequence[traceback.FrameSummary]
) -> tuple[Path | None, int | None]:
    """Where of *frames* a user can fix it: in *path*, else in the package it is a part of."""
    if path is None:
        return None, None
    for known in (path, path.with_name("__init__.py")):
        lines = [frame.lineno for frame in frames if frame.filename == str(known)]
        if lines:
            return known, lines[-1]
    return path, None
