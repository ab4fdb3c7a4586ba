"""How often the files of every two runtimes answer the same, on the full test set of finished runs.

    distiq run recipes/fashion_mnist.toml --set measure.runtimes='["onnxruntime","openvino","litert","executorch"]'
    python benchmarks/agreement.py runs/fashion_mnist [RUN ...] [--out FILE]

Reads the runs' records: of the delivered trial, or the last int8 one, every runtime that the recipe measured and the
simulated graph. A run that measured one runtime alone is made with the others by the first line; what it holds already
is not made again. Asked for are 99.95 % between any two files.
"""

import argparse
import json
from pathlib import Path

from distiq.files import write_atomically
from distiq.records.run import RunRecord
from distiq.report.reading import read_run
from distiq.report.trials import int8_trial, least_agreement

WANTED = 0.9995
SIMULATED = "simulated graph"


def matrix(run: RunRecord) -> dict[str, dict[str, float]]:
    """Agreement by runtime and runtime, fractions of 1; the simulated graph stands last."""
    return {
        entry.runtime: {**entry.agreement_with, entry.runtime: 1.0, SIMULATED: entry.agreement}
        for entry in int8_trial(run).runtimes
    }


def table_of(name: str, run: RunRecord) -> str:
    """The matrix in markdown, and whether it is as high as wanted."""
    found = matrix(run)
    names = [*found, SIMULATED]
    lines = [
        f"| {name}, {run.data.test} samples, {int8_trial(run).rung} | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    lines += [f"| {one} | {' | '.join(f'{100 * row[other]:.2f} %' for other in names)} |" for one, row in found.items()]
    least = least_agreement(run)
    if least is None:
        return "\n".join([*lines, "", "One runtime alone: see --help for how the others join it."])
    said = "holds" if least >= WANTED else "does not hold"
    return "\n".join([*lines, "", f"The least of any two files is {100 * least:.2f} %: {100 * WANTED:.2f} % {said}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, help="also write the figures here, as JSON")
    given = parser.parse_args()
    runs = {str(folder): read_run(folder / "records") for folder in given.runs}
    print("\n\n".join(table_of(run.name, run) for run in runs.values()))
    if given.out is not None:
        report = {run.name: {"test_samples": run.data.test, "rung": int8_trial(run).rung, "agreement": matrix(run),
                             "versions": run.environment.versions} for run in runs.values()}  # fmt: skip
        write_atomically(given.out, json.dumps(report, indent=1).encode())


if __name__ == "__main__":
    main()
