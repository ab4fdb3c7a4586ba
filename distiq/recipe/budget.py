"""The limits that a delivered file must hold."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from distiq.recipe.part import Part

EVERY = "*"
"""In budget.recall: every class that is measured and has no limit of its own."""


class Budget(Part):
    """The limits that the deployed file must keep; each is optional."""

    drop: float | None = Field(
        None,
        description="largest loss of the task's primary metric against the teacher, in points (hundredths) or its unit",
    )
    metrics: dict[str, float] = Field(
        default_factory=dict, description="the same of other metrics by their names, such as {auc = 0.5}"
    )
    recall: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict,
        description="largest loss of recall against the teacher by class, or by kind of span, in points, such as"
        ' {person = 2.0}, or of each one, {"*" = 5.0}; a class that is named and not measured is refused',
    )
    size_kb: float | None = Field(None, gt=0, description="largest file, in kilobytes of 1000 bytes")
    latency_ms: float | None = Field(None, gt=0, description="largest median time of one image, in milliseconds")
    flash_kb: float | None = Field(
        None,
        gt=0,
        description="most flash of a microcontroller, in kilobytes of 1000 bytes: code of a Cortex-M4 and constants",
    )
    ram_kb: float | None = Field(
        None,
        gt=0,
        description="most RAM of a microcontroller, in kilobytes of 1000 bytes: the arena, inputs and outputs",
    )
    bit_operations_m: float | None = Field(
        None,
        gt=0,
        description="most bit operations of one sample, in millions: multiply-adds times bits of weight and activation;"
        " for accelerators, the runtimes here compute narrow weights as int8",
    )

    def recalls(self, measured: Iterable[str]) -> dict[str, float]:
        """The limits on recall by class; `measured` are those of which samples are there."""
        every = self.recall.get(EVERY)
        own = {name: allowed for name, allowed in self.recall.items() if name != EVERY}
        return ({} if every is None else dict.fromkeys(measured, every)) | own

    @property
    def of_board(self) -> tuple[float | None, float | None]:
        """What a microcontroller has, in kilobytes: flash and RAM."""
        return self.flash_kb, self.ram_kb

    @property
    def limits(self) -> dict[str, float]:
        """What is limited, by key: "drop", "metrics.auc", "recall.person", "size_kb"."""
        metrics = {f"metrics.{name}": allowed for name, allowed in self.metrics.items()}
        recall = {f"recall.{name}": allowed for name, allowed in self.recall.items()}
        return self.model_dump(exclude={"metrics", "recall"}, exclude_none=True) | metrics | recall
