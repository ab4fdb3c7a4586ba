"""What every record is: a frozen value with units in its names, JSON in and out; and the environment it was made in."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

from distiq.files import write_atomically

Modality = Literal["image", "audio", "text", "table"]


NOUNS: dict[Modality, str] = {"image": "images", "audio": "clips", "text": "texts", "table": "rows"}


ONE: dict[Modality, str] = {"image": "one image", "audio": "one clip", "text": "one text", "table": "one row"}


class Record(BaseModel):
    """A frozen value that is written to and read from one JSON file. Infinite numbers are strings there: "Infinity"."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    def save(self, path: Path) -> None:
        """Writes the record as JSON; the file appears whole or not at all."""
        write_atomically(path, (self.model_dump_json(indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls.model_validate_json(Path(path).read_bytes())


class Environment(Record):
    """The machine and the software that a figure was measured with."""

    cpu: str
    cores: int
    instruction_sets: tuple[str, ...]
    memory_bytes: int
    system: str
    device: str
    versions: dict[str, str]
