"""Recipes by name: what a command line says of one, as a `Recipe`.

sae                            a registered recipe; installed packages add theirs
my_recipes.py:mine             a function in a file
package.module:mine            one of a module that can be imported
runs/first/recipe.json         a recipe as a training left it
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module, util
from itertools import product
from pathlib import Path
from typing import Any

from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.files import read_file
from thoughtscope.core.parsing import strict_json
from thoughtscope.core.site import SITE_KINDS
from thoughtscope.training.recipe import Recipe
from thoughtscope.training.recipes import RECIPES

_LARGEST = 2**20  # bytes of a recipe's file


def recipe_named(
    name: str,
    *,
    sites: Sequence[str] = (),
    n_layers: int | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe of a name, for some sites or for all layers of a model, with other values where `changes` names them.

    A name in `changes` is an argument of the recipe's function (`k`), or reaches inside the recipe (`schedule.batch`).
    Raises `ThoughtscopeError` for an unknown name, sites that the recipe does not take, and values out of range.
    """
    changes = dict(changes or {})
    if name.endswith(".json"):
        if sites:
            raise ThoughtscopeError(f"{name} says its sites itself. Leave them out.")
        return _read(Path(name)).replaced(changes)
    function = recipe_function(name)
    takes = inspect.signature(function).parameters
    given = _asked(name, takes, sites, n_layers)
    given |= {each: changes.pop(each) for each in list(changes) if each in takes}
    try:
        made = function(**given)
    except TypeError as error:  # of a value that is no number where one is meant
        asked = ", ".join(f"{each} = {value!r:.60}" for each, value in given.items())
        reason = str(error).strip().splitlines()[0]
        raise ThoughtscopeError(f"{name} cannot be made of {asked}: {reason}") from None
    if not isinstance(made, Recipe):
        raise ThoughtscopeError(f"{name} gives {type(made).__name__}, not a Recipe.")
    return made.replaced(changes) if changes else made


def recipe_function(name: str) -> Callable[..., Recipe]:
    """The function that a name stands for. Raises `ThoughtscopeError`."""
    home, colon, function = name.rpartition(":")
    if not colon:
        return RECIPES[name]
    try:
        module = _module_of(Path(home)) if home.endswith(".py") else import_module(home)
        found = getattr(module, function)
    except Exception as error:  # whatever somebody's file raises
        raise ThoughtscopeError(f"{name} names no recipe: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise ThoughtscopeError(f"{name} is no function that returns a recipe.")
    return found


def described() -> dict[str, str]:
    """Every registered recipe with the first line of what it says of itself."""
    return {name: (inspect.getdoc(made) or "").partition("\n")[0] for name, made in RECIPES.working()}


def changes_of(items: Iterable[str]) -> dict[str, Any]:
    """`NAME=VALUE` each; values are JSON where they can be, texts where not. Raises `ThoughtscopeError`."""
    return {name: _value(text) for name, text in map(_pair, items)}


def grid_of(items: Iterable[str]) -> list[dict[str, Any]]:
    """`NAME=VALUE,VALUE` each: every combination of the values. Raises `ThoughtscopeError`."""
    axes = {name: [_value(each) for each in _listed(text)] for name, text in map(_pair, items)}
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def spread(sites: Iterable[str], n_layers: int | None) -> tuple[str, ...]:
    """Sites as they were written, and a kind without a layer as the sites of all layers."""
    found: list[str] = []
    for site in (each.strip() for item in sites for each in item.split(",") if each.strip()):
        if site not in SITE_KINDS or not SITE_KINDS[site].per_layer:
            found.append(site)
            continue
        if n_layers is None:
            raise ThoughtscopeError(
                f"{site} of all layers needs the model. Name it, or the layers: {site}.0."
            )
        found += [f"{site}.{layer}" for layer in range(n_layers)]
    return tuple(dict.fromkeys(found))


def _asked(name: str, takes: Mapping[str, Any], sites: Sequence[str], n_layers: int | None) -> dict[str, Any]:
    """The arguments that the sites or the model decide."""
    given: dict[str, Any] = {}
    if "sites" in takes:
        if not sites:
            raise ThoughtscopeError(f"The recipe {name} needs sites, for example resid_post.3.")
        given["sites"] = list(sites)
    elif sites:
        others = [each for each in ("site", "read", "write") if each in takes]
        instead = f" It takes {' and '.join(others)} of all layers as values to set." if others else ""
        raise ThoughtscopeError(f"The recipe {name} takes no sites.{instead}")
    if "n_layers" in takes:
        if n_layers is None:
            raise ThoughtscopeError(f"The recipe {name} is made for the layers of a model. Name the model.")
        given["n_layers"] = n_layers
    return given


def _read(path: Path) -> Recipe:
    try:
        data = strict_json(read_file(path, limit=_LARGEST), str(path))
    except FileNotFoundError:
        raise ThoughtscopeError(f"There is no recipe {path}.") from None
    if not isinstance(data, dict):
        raise ThoughtscopeError(f"{path} is no recipe but {type(data).__name__}.")
    return Recipe.of(**data)


def _module_of(path: Path) -> Any:
    specification = util.spec_from_file_location(path.stem, path)
    if specification is None or specification.loader is None or not path.is_file():
        raise FileNotFoundError(f"there is no {path}")
    module = util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def _pair(item: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise ThoughtscopeError(f'"{item}" is not NAME=VALUE, for example schedule.batch=2048.')
    return name.strip(), value.strip()


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _listed(text: str) -> list[str]:
    """The values between commas that no bracket encloses."""
    found, depth, start = [], 0, 0
    for at, character in enumerate(text):
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            found.append(text[start:at])
            start = at + 1
    values = [each.strip() for each in (*found, text[start:])]
    if not all(values):
        raise ThoughtscopeError(f'"{text}" has a value that is empty.')
    return values
