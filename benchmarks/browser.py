"""Files in a browser: float32, float16 and int8 of finished runs, and how soon their pages predict.

    apt-get install chromium npm
    distiq run fashion_mnist --set export.web=true
    python benchmarks/browser.py runs/fashion_mnist [RUN ...] [--opened 5] [--out benchmarks/results/browser.json]

Times, sizes and agreement are those of the runs' records. Every page is opened several times in a Chromium that has
just started and has nothing in its cache; the time counts from the moment it goes to the page until the first
prediction is shown, and until all test vectors are replayed. A first prediction within 3 s is asked for.
"""

import argparse
import json
import re
import statistics
from pathlib import Path
from typing import Any

from distiq import environment
from distiq.files import write_atomically
from distiq.records.run import RunRecord
from distiq.records.web import WebFileRecord, WebRecord
from distiq.report.reading import read_run
from distiq.runtimes.web import RUNTIME, Browser, fetch

WANTED_S = 3.0
FORMS = ("float32", "float16", "int8")
OPENED = re.compile(r"first prediction ([\d.]+) s after this page was opened, all of this after ([\d.]+) s")


def opened(page: Path, runtime: list[Path]) -> tuple[float, float]:
    """Seconds until a page's first prediction and until all is replayed, in a new browser.

    Raises:
        RuntimeError: the page says that it predicts differently there.
    """
    with Browser({}, runtime) as browser:
        said = browser.replay(page)
    found = OPENED.search(said)
    if found is None or not said.startswith("pass"):
        raise RuntimeError(f"{page}: {said}")
    return float(found[1]), float(found[2])


def cell(one: WebFileRecord | None) -> str:
    return f"{one.latency.p50_ms:.3f} ms, {one.size_bytes / 1000:.1f} kB" if one else "-"


def row_of(run: RunRecord, web: WebRecord, times: list[tuple[float, float]]) -> str:
    """A row of the table in markdown."""
    int8 = web.file("int8")
    takes = f"{1 / int8.speed.ratio:.2f} times" if int8 and int8.speed else "-"
    least = min(one.agreement for one in web.files)
    first, whole = (statistics.median(column) for column in zip(*times, strict=True))
    cells = [run.name, *(cell(web.file(form)) for form in FORMS), takes, web.delivered,
             f"{100 * least:.2f} % of {web.samples:,}", f"{first:.2f} s", f"{whole:.2f} s"]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def figures(web: WebRecord, times: list[tuple[float, float]]) -> dict[str, Any]:
    """What is written down of a run."""
    return {
        "browser": web.browser,
        "package": web.package,
        "files": {one.form: one.model_dump(mode="json") for one in web.files},
        "samples": web.samples,
        "delivered": web.delivered,
        "first_prediction_s": [first for first, _ in times],
        "replayed_s": [whole for _, whole in times],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--opened", type=int, default=5, help="how often each page is opened (5)")
    parser.add_argument("--out", type=Path, help="also write the figures here, as JSON")
    given = parser.parse_args()
    report: dict[str, Any] = {}
    print(f"| run | {' | '.join(FORMS)} | int8 takes | delivered | as ONNX Runtime | first prediction | replayed |")
    print("|---" * 9 + "|")
    slowest = 0.0
    for folder in given.runs:
        run = read_run(folder / "records")
        if run.web is None:
            raise SystemExit(f"{folder}: has no page; run it again with --set export.web=true")
        runtime = fetch(RUNTIME, folder / "cache")
        times = [opened(folder / "bundle" / "web", runtime) for _ in range(given.opened)]
        slowest = max(slowest, *(first for first, _ in times))
        print(row_of(run, run.web, times), flush=True)
        report[run.name] = figures(run.web, times)
    said = "holds" if slowest <= WANTED_S else "does not hold"
    print(f"\nThe slowest first prediction took {slowest:.2f} s: within {WANTED_S:g} s {said}.")
    if given.out is not None:
        machine = environment.describe().model_dump(mode="json")
        write_atomically(given.out, (json.dumps({"environment": machine, "runs": report}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
