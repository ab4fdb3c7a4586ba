"""Why accuracy dropped."""

from distiq.records.record import Record
from distiq.records.sensitivity import SensitivityRecord


class FindingRecord(Record):
    """One check of a diagnosis: what was looked at, what was seen, and whether it explains a loss."""

    check: str
    suspect: bool
    text: str


class DiagnosisRecord(Record):
    """Why a quantized student lost accuracy: the checks in their order, the cause in a sentence, the cure.

    `rung` names the trial that was looked at, `sensitivity.rung` the one whose tensors were quantized alone. `cure`
    holds the overrides of the recipe (`--set`) that apply it; empty where nothing is to be cured. `basis` is that of
    the run, `step` the folder of the trial that was looked at.
    """

    rung: str
    basis: str
    step: str = ""
    findings: tuple[FindingRecord, ...]
    cause: str
    cure: tuple[str, ...]
    sensitivity: SensitivityRecord

    @property
    def looked_at(self) -> str:
        """What was examined, in a sentence."""
        other = self.sensitivity.rung
        alone = f' (single tensors: as "{other}" quantizes them, weights rounded to the nearest)'
        return f'Looked at: the int8 file of the rung "{self.rung}"{alone if other != self.rung else ""}.'
