"""How a student is looked for."""

from pydantic import Field, field_validator

from distiq.recipe.part import Part


class SearchSettings(Part):
    """`distiq search`, and `student.model = "auto"`."""

    space: str = Field(
        "", description='where students are looked for: by default the modality\'s own networks, or "file.py:function"'
    )
    trials: int = Field(30, ge=1, description="candidates that are tried; most are only timed, or stopped early")
    hours: float | None = Field(
        None, gt=0, description="no candidate is begun after so many hours; by default no limit"
    )
    reduction: int = Field(
        3, ge=2, description="of so many candidates that reach a stage one goes on; the next stage is so often longer"
    )
    first_epochs: int = Field(1, ge=1, description="epochs before a candidate may be stopped")

    @field_validator("space")
    @classmethod
    def _space_is_a_function(cls, space: str) -> str:
        if space and ".py:" not in space:
            raise ValueError(f'space = "{space}" names no function; write "file.py:function", or leave it out')
        return space
