"""Whether the teacher helped."""

from typing import Literal

from distiq.records.quality import Quality
from distiq.records.record import Environment, Record


class ArmRecord(Record):
    """One way of training the student: the task's primary metric on the test set, in each seed."""

    name: str
    values: tuple[float, ...]


class PairRecord(Record):
    """Two arms compared on the same test samples: by how many percentage points the first is better than the second.

    `interval_points` is the 95 % paired bootstrap interval over seeds and samples; `mcnemar_p` the exact test's
    p-value in each seed, where samples are right or wrong. The verdict is of the first arm against the second.
    """

    first: str
    second: str
    difference_points: float
    interval_points: tuple[float, float]
    per_seed_points: tuple[float, ...]
    mcnemar_p: tuple[float, ...]
    verdict: Literal["helps", "hurts", "cannot tell"]


class AblationRecord(Record):
    """Whether the teacher helped: the same student and steps, trained in several ways over the same seeds.

    `basis` is that of the run with the same teacher, student and data. `steps` names the folders of its steps.
    """

    name: str
    command: str
    recipe_toml: str
    environment: Environment
    basis: str
    teacher: Quality
    seeds: tuple[int, ...]
    samples: int
    arms: tuple[ArmRecord, ...]
    pairs: tuple[PairRecord, ...]
    seconds: float
    steps: tuple[str, ...] = ()
