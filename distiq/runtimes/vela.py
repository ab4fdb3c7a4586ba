"""Vela, the compiler of Arm's Ethos-U: everything that touches it. It runs in a process of its own."""

import csv
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from distiq.errors import UserError, first_line
from distiq.records.accelerator import AcceleratorRecord

SYSTEM = ("--config", "Arm/vela.ini", "--system-config", "Ethos_U55_High_End_Embedded", "--memory-mode", "Shared_Sram")
DEVICE = "ethos-u55-128"  # 128 multiply-adds a cycle, beside a Cortex-M55 in Arm's Corstone-300
KIBIBYTE = 1024
LEFT = re.compile(
    r"^Warning(?: \([^)]*\) operator:|: (?:Unsupported TensorFlow Lite semantics for )?) ?([A-Z_0-9]+)[ ,]", re.M
)


def lacks_vela() -> str:
    """What has to be installed, in a sentence; empty where Vela is here."""
    if importlib.util.find_spec("ethosu"):
        return ""
    return 'quantize.target = "ethos-u" runs Arm\'s compiler on the delivered file: pip install ethos-u-vela==5.2.0'


def estimate(path: Path, device: str = DEVICE) -> AcceleratorRecord:
    """What Vela makes of an integer .tflite file, whatever its suffix.

    Raises:
        UserError: Vela is not installed, or refuses the file.
    """
    if why := lacks_vela():
        raise UserError(why)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(shutil.copy(path, Path(folder) / "model.tflite"))
        asked = ["--accelerator-config", device, *SYSTEM, "--output-dir", folder]
        words = [sys.executable, "-m", "ethosu.vela", str(file), *asked]
        ran = subprocess.run(words, capture_output=True, text=True)
        summaries = list(Path(folder).glob("model_summary_*.csv"))
        if ran.returncode or not summaries:
            said = ran.stderr.strip() or ran.stdout.strip() or "it says nothing"
            raise UserError(f"{path}: Vela refuses it: {first_line(Exception(said))}")
        with summaries[0].open(newline="") as lines:
            (row,) = csv.DictReader(lines)
    counts = {kind: int(count) for kind, count in re.findall(r"(CPU|NPU) operators = (\d+)", ran.stdout)}
    return AcceleratorRecord(
        compiler=f"Vela {importlib.metadata.version('ethos-u-vela')}",
        device=device,
        on_accelerator=counts.get("NPU", 0),
        on_cpu=counts.get("CPU", 0),
        left=tuple(sorted(set(LEFT.findall(ran.stdout)))),
        sram_bytes=round(float(row["sram_memory_used"]) * KIBIBYTE),
        cycles=round(float(row["cycles_total"])),
        clock_hz=float(row["core_clock"]),
    )
