"""explain(): what is wrong in a recipe, in sentences that name the key, what is wrong, and what to do."""

import difflib
import json
import re
import types
from collections.abc import Sequence
from typing import Any, Union, get_args, get_origin

from pydantic import ValidationError

from distiq.recipe.data import ViewSettings
from distiq.recipe.recipe import Recipe

Location = tuple[int | str, ...]


def explain(name: str, error: ValidationError, part: Any = Recipe, above: str = "") -> list[str]:
    """A line for each thing that is wrong.

    Args:
        name: of the recipe. part: what was refused. above: the keys that lead to it, each with a dot behind it.
    """
    problems = error.errors()
    # What a wrong entry makes of the list around it is no problem of its own.
    around = {problem["loc"][:depth] for problem in problems for depth in range(len(problem["loc"]))}
    lines, by_value = list[str](), dict[Location, list[Any]]()
    for problem in problems:
        key, shared = _key(problem["loc"], part)
        inner = getattr(problem.get("ctx", {}).get("error"), "__cause__", None)
        if problem["loc"] in around:
            continue
        if isinstance(inner, ValidationError):  # see `Recipe.teacher_views`
            lines += explain(name, inner, ViewSettings, "teacher.views.")
        elif shared:
            by_value.setdefault(shared, []).append({**problem, "loc": key})
        else:
            lines.append(_explain(name, {**problem, "loc": key}, part, above))
    for value, tried in by_value.items():
        lines += _of_several_types(name, value, tried, part, above)
    return lines


def _key(location: Location, part: Any) -> tuple[Location, Location]:
    """A problem's location without the names of types that were tried; and where the value of several types stands
    that it is of, empty if it is of none."""
    annotation: Any = part
    key, shared = list[int | str](), tuple[int | str, ...]()
    for step in location:
        members = [one for one in get_args(annotation) if one is not types.NoneType]
        if get_origin(annotation) in (Union, types.UnionType):
            if len(members) > 1:
                shared, annotation = tuple(key), None
                continue
            annotation = members[0]
        key.append(step)
        annotation = _inside(annotation, step)
    return tuple(key), shared


def _inside(annotation: Any, step: int | str) -> Any:
    """The type of what stands below a key, or at a place of a list."""
    if fields := getattr(annotation, "model_fields", {}):
        return fields[step].annotation if step in fields else None
    return get_args(annotation)[-1] if get_origin(annotation) is dict else next(iter(get_args(annotation)), None)


def _of_several_types(name: str, value: Location, tried: Sequence[Any], part: Any, above: str) -> list[str]:
    """What is wrong with a value that may be of several types: by the one that it comes closest to, if to any."""
    if closest := [one for one in tried if len(one["loc"]) > len(value) or not one["type"].endswith("_type")]:
        return [_explain(name, one, part, above) for one in closest]
    wanted = " or ".join(one["msg"].removeprefix("Input should be ") for one in tried)
    return [_explain(name, {**tried[0], "msg": f"Input should be {wanted}"}, part, above)]


def _explain(name: str, problem: Any, part: Any, above: str) -> str:
    *parents, last = problem["loc"] or ("",)
    if problem["type"] == "missing" and isinstance(last, int):
        return f"{name}: {above}{'.'.join(map(str, parents))}: give {last + 1} values at least"
    key = above + ".".join(str(step) for step in problem["loc"])
    place = f"{name}: {key.removesuffix('.')}" if key else name
    match problem["type"]:
        case "extra_forbidden":
            return f"{place}: unknown key; {_suggest(str(last), _keys_at(problem['loc'][:-1], part))}"
        case "missing":
            return f"{place}: this key is required"
        case "value_error":
            return f"{place}: {problem['ctx']['error']}"
        case "literal_error" if names := re.findall("'([^']*)'", problem["ctx"]["expected"]):
            return f'{place}: "{problem["input"]}" is none of its values; {_suggest(str(problem["input"]), names)}'
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{place}: {message}, but found {json.dumps(problem['input'], default=str)}"


def _suggest(name: str, names: list[str]) -> str:
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f'did you mean "{nearest[0]}"?' if nearest else f"known here: {', '.join(names)}"


def _keys_at(location: Location, part: Any) -> list[str]:
    for step in location:
        if isinstance(step, str):
            part = part.model_fields[step].annotation
            part = next((a for a in getattr(part, "__args__", ()) if isinstance(a, type)), part)
    return list(part.model_fields)
