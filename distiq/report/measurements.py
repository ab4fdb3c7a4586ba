"""Times of the delivered file on other machines: taken into the run's records once, shown with the run ever after."""

from pathlib import Path

from distiq.errors import UserError
from distiq.files import sha256_of_json
from distiq.records.run import RunRecord
from distiq.records.speed import BenchFile, BenchRecord
from distiq.report.reading import REMEDY, read_record, read_run

FOLDER = "measurements"
WRITE_IT = "`distiq bench BUNDLE --json > FILE`, or `python run.py --time --json FILE` in the bundle, writes it"


def keep_measurement(records: Path, file: Path) -> None:
    """Takes the times of the run's delivered file out of a measurement, into the folder `records`.

    The same measurement again changes nothing.

    Raises:
        UserError: the run or the measurement cannot be read, or the measurement is of another file.
    """
    run = read_run(records)
    if not run.delivered:
        raise UserError(f"{records / 'run.json'}: does not say which file was delivered; {REMEDY}")
    record = read_record(Path(file), BenchRecord, WRITE_IT)
    own = _of_delivered(record, run)
    if not own.files:
        measured = ", ".join(f"{entry.file} (SHA-256 {_hashes(entry.sha256)})" for entry in record.files)
        raise UserError(
            f"{file}: measures {measured or 'nothing'}, not the file that {run.name} delivered (SHA-256"
            f" {_hashes(run.delivered)}); measure the bundle of this run"
        )
    name = sha256_of_json(own.model_dump(mode="json"))[:16]
    own.save(Path(records) / FOLDER / f"{name}.json")


def read_measurements(records: Path, run: RunRecord) -> tuple[BenchRecord, ...]:
    """The kept measurements of the file that the run delivers now, oldest first; each holds that file alone.

    Raises:
        UserError: one of them is damaged.
    """
    files = sorted((Path(records) / FOLDER).glob("*.json"))
    entries = [_of_delivered(read_record(path, BenchRecord, f"remove it; {WRITE_IT}"), run) for path in files]
    return tuple(sorted((entry for entry in entries if entry.files), key=lambda entry: entry.created))


def _of_delivered(record: BenchRecord, run: RunRecord) -> BenchRecord:
    """The measurement without other files and without the folders that the file lay in."""
    hashes = set(run.delivered.values())
    own = [entry for entry in record.files if hashes and set(entry.sha256.values()) == hashes]
    named = tuple(BenchFile.model_validate({**dict(entry), "file": " and ".join(entry.sha256)}) for entry in own[:1])
    return BenchRecord(created=record.created, environment=record.environment, files=named, peak=record.peak)


def _hashes(parts: dict[str, str]) -> str:
    return ", ".join(value[:12] for value in parts.values())
