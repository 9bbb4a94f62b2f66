"""Hook files on the disk: where they are, what can be said of them unread, and importing them.

Reading looks at a file's syntax alone; only ``load`` runs what is in it.
"""

from __future__ import annotations

import ast
import importlib
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from ..errors import Fault, HookError
from ..hook_runner import LoadFault
from ..hooks import Hook, registry
from ..invocation import HOOKS
from ..variables import URL

DIRECTORY = HOOKS.name
"""Beside ``db/``, in the directory ``confiture`` is run in; a package of this name, too."""
REMEDY = "Correct it; until then its hooks do not run"


@dataclass(frozen=True, slots=True, kw_only=True)
class HookFile:
    """A file of the directory, or a module that the settings name."""

    module: str
    path: Path | None
    """``None`` for a module whose source is not found."""
    fault: Fault | None = None
    reads_url: bool = False
    """Whether it reads CONFITURE_WEBHOOK_URL itself, and so takes that variable over."""

    @property
    def shown(self) -> str:
        """Its name for people."""
        return _shown(self.path) if self.path is not None else self.module


def find(project: Path, modules: Sequence[str] = ()) -> list[HookFile]:
    """The hook files of *project* in name order, then *modules* in theirs."""
    files = [_read(f"{DIRECTORY}.{path.stem}", path) for path in _files(project / DIRECTORY)]
    return files + [_module(name, project) for name in modules]


def _files(directory: Path) -> list[Path]:
    try:
        files = sorted(directory.iterdir())
    except OSError:
        return []
    return [file for file in files if file.suffix == ".py" and file.name[0] not in "._"]


def _module(name: str, project: Path) -> HookFile:
    """The module called *name*, found without importing anything."""
    search: list[str] | None = [*sys.path, str(project)]
    spec: ModuleSpec | None = None
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:length]), search)
        search = spec.submodule_search_locations if spec else None
        if search is None and length < len(parts):
            spec = None
            break
    if spec is None:
        fault = Fault(f"webhooks.hooks: {name}", "there is no such module", "Install or correct it")
        return HookFile(module=name, path=None, fault=fault)
    origin = Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    return _read(name, origin) if origin else HookFile(module=name, path=None)


def _read(module: str, path: Path) -> HookFile:
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        place = f"{_shown(path)}:{line}" if line else _shown(path)
        fault = Fault(place, f"is not valid Python ({_reason(error)})", REMEDY)
        return HookFile(module=module, path=path, fault=fault)
    except OSError as error:
        fault = Fault(_shown(path), f"cannot be read ({type(error).__name__})", REMEDY)
        return HookFile(module=module, path=path, fault=fault)
    names = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return HookFile(module=module, path=path, reads_url=URL in names)


def _reason(error: BaseException) -> str:
    return str(getattr(error, "msg", None) or type(error).__name__)


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def load(file: HookFile, project: Path) -> list[Hook]:
    """Import *file* and return the hooks it registers. Raises LoadFault for whatever it raises."""
    try:
        with _importable(file, project), registry.loading() as found:
            importlib.import_module(file.module)
    except BaseException as error:  # noqa: BLE001  SystemExit and KeyboardInterrupt are theirs too
        raise _fault(file, error) from None
    return found or registry.of(file.module)


@contextmanager
def _importable(file: HookFile, project: Path) -> Iterator[None]:
    """Make *file* importable: the directory as a package, the project behind all other places."""
    if file.module.startswith(f"{DIRECTORY}."):
        _package(project / DIRECTORY)
        yield
        return
    sys.path.append(str(project))
    try:
        yield
    finally:
        if str(project) in sys.path:
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
        spec.loader.exec_module(package)
    package.__path__ = [str(directory)]
    sys.modules[DIRECTORY] = package


def forget() -> None:
    """Let the next run of this process import the directory's files anew."""
    for name in [one for one in sys.modules if one.partition(".")[0] == DIRECTORY]:
        del sys.modules[name]
    registry.forget(DIRECTORY)


def _fault(file: HookFile, error: BaseException) -> LoadFault:
    """What *error* says of *file*, in words that hold nothing of the users'."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if file.path and frame.filename == str(file.path)]
    path, line = file.path, own[-1].lineno if own else None
    if isinstance(error, SyntaxError) and error.filename:
        path, line = Path(error.filename), error.lineno
    problem = f"raised {type(error).__name__} when it was imported"
    if isinstance(error, HookError):
        problem = str(error)
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
