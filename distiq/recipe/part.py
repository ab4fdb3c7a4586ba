"""What all parts of a recipe are: closed values."""

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A part of a recipe: frozen, typed, closed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
