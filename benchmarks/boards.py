"""Samples through a C file on emulated boards: a Cortex-M4 (mps2-an386) and a Cortex-M55 (mps3-an547), in QEMU."""

import importlib.resources
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from torch import Tensor

from distiq.models.signature import Signature
from distiq.runtimes.c99 import CROSS, FOR_BOARD
from distiq.runtimes.c99_board import as_laid
from distiq.runtimes.c99_write import about_of
from distiq.runtimes.export import load

REPLAY = Path(__file__).with_name("board_replay.c")
BOARDS = {
    "mps2-an386": (FOR_BOARD[2:], "0x00000000", "0x20000000"),
    "mps3-an547": (("-mcpu=cortex-m55", "-mthumb", "-mfloat-abi=hard"), "0x10000000", "0x30000000"),
}
TOOLS = (CROSS, "qemu-system-arm")
WRAPPED = ("malloc", "calloc", "realloc", "free")
"""Calls of the heap: nothing has them under these names, so that a program with one is not linked."""
LINK = ("-nostartfiles", "--specs=nosys.specs", "-T", "qemu.ld", *(f"-Wl,--wrap={name}" for name in WRAPPED))
QEMU = ("qemu-system-arm", "-nographic", "-semihosting", "-monitor", "none", "-serial", "none")


def lacks_boards() -> str:
    """What has to be installed, in a sentence; empty where nothing is missing."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    return f"{missing[0]} is not found here: apt-get install gcc-arm-none-eabi qemu-system-arm" if missing else ""


def with_cmsis(clone: Path) -> list[str]:
    """What a compiler is told to link the int8 layers of CMSIS-NN."""
    defined = ("DISTIQ_Q31", "DISTIQ_CMSIS_NN", "CMSIS_NN_USE_SINGLE_ROUNDING")
    sources = [*clone.glob("Source/ConvolutionFunctions/*s8*.c"), *clone.glob("Source/NNSupportFunctions/*.c")]
    plain = [str(one) for one in sorted(sources) if not one.stem.endswith(("f16", "f32", "s4"))]
    return [*(f"-D{one}" for one in defined), f"-I{clone / 'Include'}", "-ffunction-sections", "-Wl,--gc-sections",
            *plain]  # fmt: skip


def same_bytes(path: Path, samples: Tensor, board: str, seconds: int = 600, cmsis: Path | None = None) -> bool:
    """Whether a board gives the bytes that the file gives here.

    Args:
        path: a file "model.c" of one input and one output.
        samples: (N, ...) as the network takes them.
        board: one of `BOARDS`.
        cmsis: a clone of CMSIS-NN that computes the layers, built for a single rounding; here the file computes them
            with DISTIQ_Q31, which rounds once as well.

    Raises:
        subprocess.SubprocessError: the program is not compiled, asks for memory, fails, or takes longer than `seconds`.
    """
    about = about_of(path.read_text(encoding="utf-8"))
    stated = Signature.from_json(about)
    takes = as_laid(samples.numpy(), stated.inputs[0], about["orders"][0][0])
    options = {"define": "DISTIQ_Q31"} if cmsis else {}
    gives = as_laid(load(path, 1, options)(samples).numpy(), stated.outputs[0], about["orders"][1][0])
    processor, code, data = BOARDS[board]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in (path, path.with_suffix(".h"), REPLAY):
            shutil.copy(part, folder)
        for part in ("qemu.c", "qemu.ld"):
            text = (importlib.resources.files("distiq.runtimes") / "c99_board" / part).read_text(encoding="utf-8")
            (folder / part).write_text(text)
        (folder / "in.bin").write_bytes(takes.tobytes())
        sizes = [f"-DTAKES={takes[0].nbytes}", f"-DGIVES={gives[0].nbytes}"]
        places = [f"-Wl,--defsym=CODE={code},--defsym=DATA={data}"]
        words = [CROSS, "-std=c99", "-O2", "-ffp-contract=off", *processor, *sizes, *LINK, *places]
        words += [] if cmsis is None else with_cmsis(cmsis)
        subprocess.run([*words, REPLAY.name, "model.c", "qemu.c", "-o", "model.elf"], cwd=folder, check=True)
        subprocess.run([*QEMU, "-machine", board, "-kernel", "model.elf"], cwd=folder, check=True, timeout=seconds)
        given = np.frombuffer((folder / "out.bin").read_bytes(), gives.dtype)
    return given.tobytes() == gives.tobytes()
