"""How a student is looked for."""

from pydantic import Field, field_validator

from distiq.recipe.part import Part


class SearchSettings(Part):
    """`distiq search`, and `student.model = "auto"`."""

    space: str = Field(
        "", description='where students are looked for: by default the modality\'s own networks, or "file.py:function"'
    )
    trials: int = Field(30, ge=1, description="candidates that are tried; most are only timed, or stopped early")
    probes: int = Field(
        24,
        ge=0,
        description="networks that are drawn and timed first; what surely breaks the budget by what they tell is not"
        " even timed, and counts as no trial; fewer than 16 tell nothing",
    )
    draws: int = Field(
        48,
        ge=0,
        description="every second candidate is, of so many networks drawn at random, the one with the most"
        " multiply-adds that holds the budget, as predicted; 0 leaves all to what earlier candidates tell",
    )
    hours: float | None = Field(
        None, gt=0, description="no candidate is begun after so many hours; by default no limit"
    )
    seeds: int = Field(
        1, ge=1, description="how often the chosen and the recipe's own student are trained for the verdict"
    )
    reduction: int = Field(
        3, ge=2, description="of so many candidates that reach a stage one goes on; the next stage is so often longer"
    )
    first_epochs: int = Field(2, ge=1, description="epochs before a candidate may be stopped")

    @field_validator("space")
    @classmethod
    def _space_is_a_function(cls, space: str) -> str:
        if space and ".py:" not in space:
            raise ValueError(f'space = "{space}" names no function; write "file.py:function", or leave it out')
        return space
