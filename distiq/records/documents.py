"""What commands print with `--json`: one document each, and its JSON schema."""

import json
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from distiq.records.ablation import AblationRecord
from distiq.records.comparison import RunsRecord
from distiq.records.diagnosis import DiagnosisRecord
from distiq.records.record import Record
from distiq.records.run import OwnFileRecord, RunRecord
from distiq.records.search import SearchRecord
from distiq.records.speed import BenchRecord

DRAFT = "https://json-schema.org/draft/2020-12/schema"


class StarterRecord(Record):
    """A recipe that `distiq init` wrote, the schema beside it, and what it saw in the data."""

    recipe: str
    schema_file: str
    about: str


class ShippedRecipe(Record):
    """A recipe that comes with distiq: its name, its first line, its text."""

    name: str
    about: str
    toml: str


class ShippedRecipes(Record):
    """Those that were asked for."""

    recipes: tuple[ShippedRecipe, ...]


class ReportRecord(Record):
    """A report that was written, and all that was measured of the run's file on other machines."""

    report: str
    measurements: tuple[BenchRecord, ...]


class DiagnosedRecord(Record):
    """A diagnosis; `cured` is the run that followed its cure (`--cure`), None where none was made."""

    diagnosis: DiagnosisRecord
    cured: RunRecord | None


class UnnamedFolder(Record):
    """A folder that no record of a run names."""

    path: str
    size_bytes: int


class CleanRecord(Record):
    """What `distiq clean` removed, or would remove (`dry_run`)."""

    dry_run: bool
    folders: tuple[UnnamedFolder, ...]
    size_bytes: int


class ReplayRecord(Record):
    """How a bundle's file predicts its test vectors here: how many there are, how many predictions changed, the largest
    difference of a logit and the one that is allowed; `lines` say it."""

    passed: bool
    vectors: int
    changed: int
    largest_difference: float
    tolerance: float
    lines: tuple[str, ...]


class PushedFile(Record):
    """A file that goes to a hub."""

    name: str
    size_bytes: int


class PushRecord(Record):
    """What `distiq push` sent to a repository, or would send (`dry_run`); `url` is that of the commit."""

    repository: str
    dry_run: bool
    files: tuple[PushedFile, ...]
    url: str


class ClassShare(Record):
    """A class and its probability."""

    label: str
    probability: float


class FoundRecord(Record):
    """What was found in an image: a box (left, upper, right and lower side, in pixels) with its score, or a class of a
    mask with its share of the pixels."""

    label: str
    score: float | None = None
    box: tuple[float, float, float, float] | None = None
    share: float | None = None


class SpanRecord(Record):
    """A part of a text that has a label; `begin` and `end` are in characters."""

    label: str
    begin: int
    end: int
    text: str
    probability: float


class PredictionRecord(Record):
    """What a bundle predicts for one sample, one row of a file of rows (from 1) or one window of a sound.

    `text` says it in words. Which of the others is filled depends on the task: `classes` (likeliest first), `number`,
    `found` in an image, `spans` of a text, `vector`. `notes` say how the sample was changed before.
    """

    sample: str
    second: str = ""
    row: int | None = None
    start_s: float | None = None
    end_s: float | None = None
    text: str
    classes: tuple[ClassShare, ...] = ()
    number: float | None = None
    found: tuple[FoundRecord, ...] = ()
    spans: tuple[SpanRecord, ...] = ()
    vector: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()


class PredictionsRecord(Record):
    """What a bundle predicts, in the order of the samples."""

    bundle: str
    predictions: tuple[PredictionRecord, ...]


DOCUMENTS: dict[str, type[Record]] = {
    "run": RunRecord,
    "search": SearchRecord,
    "deliver": RunRecord,
    "ablate": AblationRecord,
    "diagnose": DiagnosedRecord,
    "init": StarterRecord,
    "recipes": ShippedRecipes,
    "report": ReportRecord,
    "show": RunRecord,
    "compare": RunsRecord,
    "clean": CleanRecord,
    "predict": PredictionsRecord,
    "check": ReplayRecord,
    "bench": BenchRecord,
    "quantize": OwnFileRecord,
    "push": PushRecord,
}
"""By command. That of `distiq schema` is a JSON schema itself."""


def document_schema(command: str) -> str:
    """The JSON schema of what a command prints with `--json`, as JSON."""
    if command == "schema":
        tree: dict[str, Any] = {"$ref": DRAFT}
    else:
        tree = DOCUMENTS[command].model_json_schema(mode="serialization", schema_generator=_Schema)
    return json.dumps({"$schema": DRAFT} | tree, indent=1, ensure_ascii=False)


class _Schema(GenerateJsonSchema):
    """JSON has no infinite numbers: records write them as strings, see `Record`."""

    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        return {"anyOf": [super().float_schema(schema), {"enum": ["Infinity", "-Infinity", "NaN"]}]}
