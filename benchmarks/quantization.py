"""Post-training quantization side by side: distiq, onnxruntime, torchao PT2E and, where installed, NNCF and ai-edge.

    python benchmarks/quantization.py [--epochs 6] [--run runs/quantization] [--only resnet,mobilenet]
        [--sets 3] [--tools distiq,NNCF] [--adaround-iterations 10000] [--bert FOLDER]

The same float32 networks, trained here by the same `fit`: three on Fashion-MNIST, a DS-CNN on spoken digits, a BERT on
SST-2; the same unlabelled calibration samples (512 images, as many as the recipe says elsewhere); the full test set. A
CIFAR-style ResNet-56 for 32 x 32 images is too costly here for more than four epochs of 3,488 and 5,000 test images.
Few answers flip, so that one calibration set tells little: figures are means over `--sets` of them.
Each tool's file is run in its runtime (torchao's graph in PyTorch). The DS-CNN is quantized behind its front-end, which
stays float32 for every tool. The BERT begins from `--bert`, a folder such as MiniLM's; else it is small and drawn.
A second table has weights of 4 and 3 bits with 128 samples: naive rounding, the closed form, AdaRound and BRECQ as in
their papers, and BRECQ in 300 steps from the closed form, each with its time. Networks and rows that are there are not
made again; `--out` names the figures' file. `--markdown` makes nothing: it prints what is there as a table for docs.
"""

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import peers
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor, nn

from distiq import environment
from distiq.data.load import load as load_data
from distiq.data.samples import Split, in_memory
from distiq.data.splits import Data
from distiq.data.text import Text
from distiq.distillation.distil import distil
from distiq.evaluation.evaluate import outputs
from distiq.files import save_tensors, write_atomically
from distiq.models.audio import front_ends
from distiq.models.build import build
from distiq.models.create import Tokens
from distiq.models.mobilenet import MobileNetV2
from distiq.models.resnet import ResNet
from distiq.models.signature import INPUT, Predict
from distiq.numerics import sqnr_db
from distiq.progress import Lines
from distiq.quantization.graph import export_graph
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.recipe.data import DataSettings, ViewSettings
from distiq.recipe.read import load_recipe
from distiq.recipe.recipe import Recipe
from distiq.recipe.training import TrainingSettings
from distiq.runtimes.export import export, load
from distiq.tasks.classification import agreement

ON_IMAGES: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: ResNet(10, 1, (16, 48, 96), 1),
    "mobilenet": lambda: MobileNetV2(10, 1, stem_stride=2, activation="relu6"),
    "efficientnet": lambda: MobileNetV2(10, 1, stem_stride=2, activation="silu", squeeze=0.25),
    "resnet56": lambda: ResNet(10, 1, (16, 32, 64), 9),
}
LARGE, LARGE_EPOCHS, LARGE_TRAIN, LARGE_TEST, PADDING = "resnet56", 4, 6000, 5000, 2
BY_RECIPE = {"ds_cnn": "spoken_digits", "bert": "sst2"}
SMALL_BERT = (
    'student.weights=""',
    "student.options={hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512}",
    'data.text.tokenizer=""',
)
DS_CNN = (
    "student.model=ds_cnn",
    "student.options={rate = 8000, hop_ms = 32, widths = [40, 48, 56, 56], strides = [1, 1, 1, 1]}",
)
NARROW_SAMPLES = 128
QUICK_STEPS = 300
Maker = Callable[[nn.Module, Tensor, Path], Predict]


class Task(NamedTuple):
    """A network, not yet trained, what it learns, and how."""

    model: nn.Module
    data: Data
    training: TrainingSettings
    views: ViewSettings


def task_of(name: str, epochs: int, bert: str, sentences: str) -> Task | None:
    """A network's task; None where its data are not here."""
    torch.manual_seed(0)
    if name in ON_IMAGES:
        is_large = name == LARGE
        epochs = min(epochs, LARGE_EPOCHS) if is_large else epochs
        training = TrainingSettings(epochs=epochs, batch_size=64, learning_rate=0.1, precision="float32")
        data = padded(load_data(DataSettings(train=LARGE_TRAIN), 0)) if is_large else load_data(DataSettings(), 0)
        return Task(ON_IMAGES[name](), data, training, ViewSettings())
    if name == "bert" and not sentences:
        return None
    given = (f"student.weights={bert}", f"data.text.tokenizer={bert}") if bert else SMALL_BERT
    recipe = load_recipe(BY_RECIPE[name], (*given, f"data.folder={sentences}") if name == "bert" else DS_CNN)
    return Task(*_built(recipe), recipe.student.training, recipe.views)


def padded(data: Data) -> Data:
    """Images of 32 x 32, as a CIFAR-style network expects them, and half of the test set."""

    def framed(part: Split, most: int | None = None) -> Split:
        return in_memory(F.pad(part.inputs[:most], [PADDING] * 4), part.labels[:most])

    parts = {name: framed(getattr(data, name)) for name in ("train", "calibration", "validation")}
    parts["test"] = framed(data.test, LARGE_TEST)
    return replace(data, **parts, preprocessing=replace(data.preprocessing, shape=parts["test"].samples.shape))


def _built(recipe: Recipe) -> tuple[nn.Module, Data]:
    data = load_data(recipe.data, recipe.seed)
    text = data.preprocessing
    tokens = Tokens(text.vocabulary, text.pad, *data.used_tokens()) if isinstance(text, Text) else None
    torch.manual_seed(recipe.seed)
    return build(recipe.student, len(data.classes), data.example, "student", tokens), data


def trained(name: str, task: Task, folder: Path, console: Console) -> nn.Module:
    """A float32 network, from the folder if it is there."""
    model, path = task.model, folder / f"{name}-{task.training.epochs}.safetensors"
    if path.is_file():
        model.load_state_dict(load_file(path))
        return model.eval()
    console.print(f"training {name}")
    model, _ = distil(model, None, task.data, training=task.training, views=task.views, watch=Lines(console))
    save_tensors(model.state_dict(), path)
    return model.eval()


def behind_front_end(model: nn.Module, data: Data) -> Data:
    """Takes the front-end away from a network that has one, and gives the data as it would show them to the rest."""
    for path in front_ends(model):
        features = model.get_submodule(path)
        model.set_submodule(path, nn.Identity())

        def heard(part: Split, features: nn.Module = features) -> Split:
            with torch.no_grad():
                chunks = [features(data.normalize(chunk)) for chunk in part.chunks(250)]
            return in_memory(torch.cat(chunks), part.labels)

        parts = {name: heard(getattr(data, name)) for name in ("calibration", "validation", "test")}
        return replace(data, **parts)
    return data


def distiq_with(scheme: Scheme) -> Maker:
    def make(model: nn.Module, calibration: Tensor, folder: Path) -> Predict:
        return load(export(quantize(model, calibration, scheme), folder / "distiq.onnx", calibration[:2]))

    return make


def onnxruntime_with(method: str) -> Maker:
    def make(model: nn.Module, calibration: Tensor, folder: Path) -> Predict:
        from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self.chunks = iter(calibration.split(64))

            def get_next(self) -> dict | None:
                chunk = next(self.chunks, None)
                return None if chunk is None else {INPUT: chunk.numpy()}

        export(model, folder / "float.onnx", calibration[:2])
        is_text = not calibration.is_floating_point()
        quant_pre_process(
            str(folder / "float.onnx"),
            str(folder / "pre.onnx"),
            skip_symbolic_shape=is_text,  # it cannot follow a free length of texts
        )
        quantize_static(
            str(folder / "pre.onnx"),
            str(folder / "static.onnx"),
            Reader(),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[method],
            # With all of them quantized the mask's -3e38 spoils its neighbours: a third of the answers flip.
            op_types_to_quantize=["MatMul", "Gemm", "Gather"] if is_text else None,
        )
        return load(folder / "static.onnx")

    return make


def torchao_pt2e(model: nn.Module, calibration: Tensor, _folder: Path) -> Predict:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    quantizer = X86InductorQuantizer()
    quantizer.set_global(get_default_x86_inductor_quantization_config())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = prepare_pt2e(export_graph(model, calibration[:2]), quantizer)
        for chunk in calibration.split(64):
            prepared(chunk)
        return convert_pt2e(prepared)


def nncf(model: nn.Module, calibration: Tensor, folder: Path) -> Predict:
    import nncf as tool
    import onnx

    export(model, folder / "float.onnx", calibration[:2])
    samples = tool.Dataset([{INPUT: chunk.numpy()} for chunk in calibration.split(1)])
    kind = None if calibration.is_floating_point() else tool.ModelType.TRANSFORMER
    quantized = tool.quantize(
        onnx.load(str(folder / "float.onnx")), samples, subset_size=len(calibration), model_type=kind
    )
    onnx.save(quantized, str(folder / "nncf.onnx"))
    return load(folder / "nncf.onnx")


def ai_edge(model: nn.Module, calibration: Tensor, folder: Path) -> Predict:
    """Its file takes one size of batch: one sample."""
    path = peers.ai_edge(model, calibration, folder / "ai_edge.tflite", 1, "static_wi8_ai8")
    return peers.load_integer_tflite(path)


INT8: dict[str, Maker] = {
    "distiq default": distiq_with(Scheme(rounding="gptq")),
    "distiq min-max, nearest": distiq_with(Scheme(ranges="minmax")),
    "distiq mse, nearest": distiq_with(Scheme()),
    "distiq equalized": distiq_with(Scheme(rounding="gptq", equalize=True)),
    "onnxruntime min-max": onnxruntime_with("MinMax"),
    "onnxruntime entropy": onnxruntime_with("Entropy"),
    "onnxruntime percentile": onnxruntime_with("Percentile"),
    "torchao PT2E": torchao_pt2e,
    "NNCF": nncf,
    "ai-edge-quantizer": ai_edge,
}


def narrow(steps: int) -> dict[str, Maker]:
    """Rows of 4 and 3 bits; AdaRound and BRECQ of the papers take so many steps for each layer or block."""
    ways = {
        "naive": Scheme(ranges="minmax"),
        "closed form": Scheme(rounding="gptq"),
        f"AdaRound {steps}": Scheme(rounding="adaround", rounding_start="nearest", iterations=steps),
        f"BRECQ {steps}": Scheme(rounding="brecq", rounding_start="nearest", iterations=steps),
        f"BRECQ {QUICK_STEPS} from closed form": Scheme(rounding="brecq", iterations=QUICK_STEPS),
    }
    return {
        f"W{bits} {name}": distiq_with(replace(scheme, weight_bits=bits))  # type: ignore[arg-type]
        for bits in (4, 3)
        for name, scheme in ways.items()
    }


def mean_row(maker: Maker, model: nn.Module, sets: list[Tensor], data: Data, float_answers: Tensor) -> dict | str:
    """Means of a tool's figures over calibration sets, with the flips of each; or why there are none."""
    rows = []
    for samples in sets:
        figures = row(maker, model, samples, data, float_answers)
        if isinstance(figures, str):
            return figures
        rows.append(figures)
    means = {name: sum(figures[name] for figures in rows) / len(rows) for name in rows[0]}
    return means | {"flips_of_each": [figures["flips"] for figures in rows]}


def row(maker: Maker, model: nn.Module, samples: Tensor, data: Data, float_answers: Tensor) -> dict[str, float] | str:
    """Figures of one tool on one network, or why there are none."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        try:
            predict = maker(model, samples, Path(folder))
        except ImportError:
            return "not installed"
        except Exception as error:  # what a tool cannot take is a result as well
            return f"failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        seconds = time.perf_counter() - began
        answers = outputs(predict, data, data.test)
    labels = data.test.labels
    top1, float_top1 = (float((given.argmax(1) == labels).double().mean()) for given in (answers, float_answers))
    return {
        "top1": top1,
        "float_top1": float_top1,
        "drop_points": 100 * (float_top1 - top1),
        "flips": 1 - agreement(answers, float_answers),
        "sqnr_db": sqnr_db(float_answers, answers),
        "seconds": seconds,
    }


def show(found: dict, console: Console) -> None:
    table = Table("network", "tool", "float32", "quantized", "drop", "flips", "SQNR", "time")
    for key, figures in found.items():
        network, tool = key.split("/")
        percents = (f"{100 * figures[name]:.2f} %" for name in ("float_top1", "top1"))
        rest = (f"{figures['drop_points']:.2f}", f"{100 * figures['flips']:.2f} %", f"{figures['sqnr_db']:.1f} dB")
        table.add_row(network, tool, *percents, *rest, f"{figures['seconds']:.1f} s")
    console.print(table)


def markdown(found: dict) -> str:
    """Tools by networks; in each cell what was lost in points, flips in %, SQNR in dB, and seconds."""
    networks = list(dict.fromkeys(key.split("/")[0] for key in found))
    tools = list(dict.fromkeys(key.split("/")[1] for key in found))
    known = [*INT8, *(tool for tool in tools if tool not in INT8)]  # rows that were made later stand in their place
    float_top1 = {key.split("/")[0]: figures["float_top1"] for key, figures in found.items()}

    def cell(figures: dict | None) -> str:
        if figures is None:
            return ""
        drop, flips = f"{round(figures['drop_points'], 2) + 0.0:.2f}", f"{100 * figures['flips']:.2f}"
        return f"{drop} / {flips} / {figures['sqnr_db']:.1f} / {figures['seconds']:.0f}"

    head = ["drop / flips % / SQNR dB / s", *(f"{name} ({100 * float_top1[name]:.2f} %)" for name in networks)]
    rows = [[tool, *(cell(found.get(f"{name}/{tool}")) for name in networks)] for tool in known if tool in tools]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--run", type=Path, default=Path("runs/quantization"))
    parser.add_argument("--only", default=",".join((*ON_IMAGES, *BY_RECIPE)))
    parser.add_argument("--sets", type=int, default=3, help="calibration sets: the first is the recipe's")
    parser.add_argument("--tools", default="", help="rows to make, each by the beginning of its name: all if not given")
    parser.add_argument("--adaround-iterations", type=int, default=10000, help="steps of AdaRound and BRECQ")
    parser.add_argument("--bert", default="", help="a folder of weights and tokenizer that BERT begins from")
    parser.add_argument("--sentences", default="", help="SST-2's folder, for BERT")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/quantization.json"))
    parser.add_argument(
        "--markdown", action="store_true", help="print the rows of the run folder for the docs, no more"
    )
    arguments = parser.parse_args()
    console = Console()
    narrow_rows = narrow(arguments.adaround_iterations)
    wanted = tuple(arguments.tools.split(","))
    arguments.run.mkdir(parents=True, exist_ok=True)
    figures_file = arguments.run / "figures.json"
    found: dict = json.loads(figures_file.read_text()) if figures_file.is_file() else {}
    if arguments.markdown:
        print(markdown(found))
        return
    for name in arguments.only.split(","):
        if (task := task_of(name, arguments.epochs, arguments.bert, arguments.sentences)) is None:
            console.print(f"{name}: needs --sentences FOLDER (`distiq recipes sst2` says of what); skipped")
            continue
        model = trained(name, task, arguments.run, console)
        data = behind_front_end(model, task.data)
        unlabelled = torch.cat([data.calibration.inputs, data.validation.inputs])
        sets = list(data.normalize(unlabelled).split(len(data.calibration.inputs)))[: arguments.sets]
        float_answers = outputs(model, data, data.test)
        few = [samples[:NARROW_SAMPLES] for samples in sets]
        for samples, makers in ((sets, INT8), (few, narrow_rows)):
            for tool, maker in makers.items():
                if f"{name}/{tool}" in found or not tool.startswith(wanted):
                    continue
                console.print(f"{name}: {tool}")
                figures = mean_row(maker, model, samples, data, float_answers)
                if isinstance(figures, str):
                    console.print(f"  {figures}", markup=False)
                    continue
                found[f"{name}/{tool}"] = figures
                write_atomically(figures_file, json.dumps(found, indent=1).encode())
    report = {"environment": environment.describe().model_dump(), "epochs": arguments.epochs, "figures": found}
    write_atomically(arguments.out, json.dumps(report, indent=1).encode())
    show(found, console)


if __name__ == "__main__":
    main()
