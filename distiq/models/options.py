"""The options of a built-in network, checked by the types that its function declares."""

import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

KINDS = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}


def check_option(function: Callable[..., Any], name: str, value: Any) -> None:
    """Raises ValueError unless an option has the type of the function's parameter; whole numbers are not negative, and
    those of lists, such as widths and strides, 1 at least."""
    parameter = inspect.signature(function).parameters[name]
    place = f"{name} = {json.dumps(value, default=str)}"
    has_example = parameter.default is not parameter.empty and parameter.default != ()
    example = f", such as {json.dumps(parameter.default, default=str)}" if has_example else ""
    try:
        # JSON mode of the strict parser takes a list for a tuple; nothing else is converted.
        TypeAdapter(parameter.annotation).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        raise ValueError(f"{place}: give {_in_words(parameter.annotation)}{example}") from error
    if too_small := [number for number, least in _numbers(value, 0) if number < least]:
        least = 1 if isinstance(value, list | tuple) else 0
        raise ValueError(f"{place}: {too_small[0]} is below {least}; give numbers from {least} on{example}")


def _in_words(annotation: Any) -> str:
    if kind := KINDS.get(annotation):
        return kind
    inner = [one for one in get_args(annotation) if one is not type(None)]
    if len(inner) != 1:
        return " or ".join(_in_words(one) if not isinstance(one, str) else f'"{one}"' for one in inner)
    of = _in_words(inner[0]).removeprefix("a ")
    return (
        f"a list of {of}s" if of in ("whole number", "number", "word") else f"a list of {of.replace('list', 'lists')}"
    )


def _numbers(value: Any, least: int) -> Iterator[tuple[float, int]]:
    """The numbers of an option, each with the least that it may be."""
    if isinstance(value, list | tuple):
        for one in value:
            yield from _numbers(one, 1)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value, least
