"""The public names: what is promised loads, is documented, and costs nothing before."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

import confiture_webhooks


def is_documented(value: object) -> bool:
    """Whether *value* has a docstring somebody wrote, not inherited and not made by dataclass."""
    text = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    return bool(text) and not str(text).startswith(f"{getattr(value, '__name__', '')}(")


@pytest.mark.parametrize("name", confiture_webhooks.__all__)
def test_every_public_name_loads_and_is_documented(name: str) -> None:
    """Each name of ``__all__`` is there on first use, with a docstring of its own."""
    value = getattr(confiture_webhooks, name)
    assert value.__name__ == name
    assert is_documented(value)


@pytest.mark.parametrize("name", confiture_webhooks.__all__)
def test_every_public_name_says_where_it_lives(name: str) -> None:
    """A public name is the very object its home module defines."""
    value = getattr(confiture_webhooks, name)
    home = importlib.import_module(value.__module__)
    assert home.__name__.startswith("confiture_webhooks.")
    assert getattr(home, name) is value


def test_the_list_is_sorted_and_each_name_once() -> None:
    """``__all__`` can be read."""
    assert sorted(set(confiture_webhooks.__all__)) == confiture_webhooks.__all__


def test_dir_shows_the_public_names() -> None:
    """``dir()`` completes names that were not loaded yet."""
    assert set(confiture_webhooks.__all__) <= set(dir(confiture_webhooks))


def test_another_name_is_an_attribute_error() -> None:
    """A name that does not exist says so as any module does."""
    with pytest.raises(AttributeError, match="confiture_webhooks.*no attribute 'nosuch'"):
        _ = confiture_webhooks.nosuch


def modules() -> list[str]:
    """Every module of the package."""
    found = pkgutil.walk_packages(confiture_webhooks.__path__, "confiture_webhooks.")
    return [module.name for module in found]


@pytest.mark.parametrize("name", modules())
def test_every_module_and_public_definition_is_documented(name: str) -> None:
    """Each module, and each public class, function and method in it, has a docstring."""
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{error.name} is not installed")
    assert module.__doc__, name
    assert [title for title, value in _public(module, name) if not is_documented(value)] == []


def _public(module: object, home: str) -> list[tuple[str, object]]:
    """The public classes, functions and methods that are defined in *module*."""
    found: list[tuple[str, object]] = []
    for title, value in vars(module).items():
        if title.startswith("_") or getattr(value, "__module__", None) != home:
            continue
        if inspect.isclass(value) or inspect.isfunction(value):
            found.append((title, value))
        if inspect.isclass(value):
            found += [
                (f"{title}.{method}", inner)
                for method, inner in vars(value).items()
                if not method.startswith("_") and inspect.isfunction(inner)
            ]
    return found
