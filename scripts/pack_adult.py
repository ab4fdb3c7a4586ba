"""Packs Adult (Census Income) for the package: UCI's two files with a header, as xz of CSV.

    python scripts/pack_adult.py FOLDER_OF_ADULT_DATA_AND_TEST

No value is changed; `distiq.data.tables` reads the result. Needs only the standard library.
"""

import csv
import io
import lzma
import sys
from pathlib import Path

TARGET = Path(__file__).parent.parent / "distiq" / "data" / "adult"
NAMES = (
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship", "race",
    "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income",
)  # fmt: skip


def main(folder: str) -> None:
    for file, target in (("adult.data", "train"), ("adult.test", "test")):
        with (Path(folder) / file).open(encoding="utf-8", newline="") as stream:
            rows = [row for row in csv.reader(stream, skipinitialspace=True) if len(row) == len(NAMES)]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(NAMES)
        writer.writerows([*row[:-1], row[-1].rstrip(".")] for row in rows)
        packed = lzma.compress(text.getvalue().encode(), preset=9 | lzma.PRESET_EXTREME)
        (TARGET / f"{target}.csv.xz").write_bytes(packed)
        print(f"{target}: {len(rows)} rows, {len(packed):,} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
