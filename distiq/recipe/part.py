"""What all parts of a recipe are: closed values."""

import unicodedata
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict

Name = Annotated[str, AfterValidator(partial(unicodedata.normalize, "NFC"))]
"""Of a column, a class or a speaker: letters with marks as one character each, as data is read."""


class Part(BaseModel):
    """A part of a recipe: frozen, typed, closed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset()
    """Keys that change no result, such as how often a checkpoint is written; no step's key holds them."""


P = TypeVar("P", bound=Part)


def changed(part: P, values: Mapping[str, Any]) -> P:
    """The part with other values, checked as the part itself was.

    Raises:
        ValueError: the values are refused.
    """
    return type(part).model_validate({**dict(part), **values})
