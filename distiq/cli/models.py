"""Commands on model files."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from distiq.cli.terminal import AsJson, Plain, app, explained, watching
from distiq.errors import UserError

Ranges = Literal["mse", "minmax", "percentile", "entropy"]
Rounding = Literal["nearest", "gptq", "adaround", "brecq"]
Mode = Literal["static", "dynamic", "weight_only", "float16"]


@app.command(
    epilog="Examples: `distiq bench model.onnx`, `distiq bench float.xml int8.xml int8.tflite --threads 2 --batch 64`,"
    " `distiq bench model.onnx --shape 3,224,224 --json > times.json`,"
    " `distiq bench runs/fashion_mnist/bundle --json > device.json`, `distiq bench sound.onnx sound.xml --rate 8000`"
)
def bench(
    files: Annotated[
        list[Path], typer.Argument(help=".onnx, .xml, .tflite, .pte, .pt2 or .c files, or bundles", show_default=False)
    ],
    threads: Annotated[
        int | None, typer.Option(min=1, help="threads of each runtime  [default: 1, of a bundle those of its card]")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="samples per call where throughput is measured")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="turns of every file; they are interleaved")] = 10,
    seconds: Annotated[float, typer.Option(min=0.001, help="length of a turn")] = 0.2,
    shape: Annotated[
        str,
        typer.Option(
            help="of one sample, such as 3,224,224, where the file does not say it; of several inputs"
            ' "image=3,224,224 depth=1,224,224"'
        ),
    ] = "",
    rate: Annotated[
        int, typer.Option(min=0, help="of files that take sound: samples per second; bundles say their own")
    ] = 0,
    tune: Annotated[bool, typer.Option("--tune", help="also time the settings of each file's runtime")] = False,
    plain: Plain = False,
    as_json: AsJson = False,
) -> None:
    """Times model files side by side on this machine: latency of one sample, throughput of a batch."""
    with explained(as_json) as emit:
        shapes = dict(_named_shape(part) for part in shape.split(" ") if part)
        from distiq.commands.bench import bench as bench_files
        from distiq.report.show import show_bench

        console = Console(highlight=False)
        with watching(console, plain) as watch:
            record = bench_files(
                files,
                threads=threads,
                batch=batch,
                rounds=rounds,
                seconds=seconds,
                shape=shapes.get("", ()) or shapes,
                rate=rate,
                tune=tune,
                watch=watch,
            )
        show_bench(record, console)
        emit(record)


@app.command(
    epilog="Examples: `distiq quantize model.onnx --data samples.npy`, `distiq quantize model.onnx --data photos"
    " --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --ranges minmax --out small.xml`"
)
def quantize(
    model: Annotated[Path, typer.Argument(help="a float32 .onnx file", show_default=False)],
    data: Annotated[
        Path,
        typer.Option(
            help="samples without labels: a folder of images, or .npy; .npz: an array for each input by its name"
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="the file to write; .onnx, .xml, .tflite, .pte, .pt2 or .c  [default: MODEL.int8.onnx, .float16.onnx]"
        ),
    ] = None,
    ranges: Annotated[Ranges, typer.Option(help="how the range of an activation is found")] = "mse",
    rounding: Annotated[
        Rounding, typer.Option(help="of weights; gptq: in closed form; brecq: learned, which takes minutes")
    ] = "gptq",
    iterations: Annotated[int, typer.Option(min=1, help="steps of adaround for a layer, of brecq for a block")] = 300,
    equalize: Annotated[bool, typer.Option("--equalize", help="move scales between layers, correct biases")] = False,
    weight_bits: Annotated[int, typer.Option(help="8, 7, 6, 4, 3 or 2")] = 8,
    mode: Annotated[
        Mode,
        typer.Option(help="static int8; dynamic: linear layers in int8; weight_only, float16: computed in float32"),
    ] = "static",
    group_size: Annotated[
        int, typer.Option(help="weight_only, 4 bits: inputs of a linear layer that share a scale")
    ] = 0,
    reduce_range: Annotated[
        bool, typer.Option("--reduce-range", help="7-bit weights: the same predictions on x86 CPUs without VNNI")
    ] = False,
    samples: Annotated[int, typer.Option(min=1, help="how many to calibrate on, at most half of them")] = 512,
    min_sqnr: Annotated[
        float, typer.Option(help="in dB, of every output beside float32; below, the noisiest layers stay in float32")
    ] = 20.0,
    size: Annotated[str, typer.Option(help="of the images, such as 224,224, where the file does not say it")] = "",
    mean: Annotated[str, typer.Option(help="of pixels from 0 to 1, by channel: images become (x - mean) / std")] = "0",
    std: Annotated[str, typer.Option(help="of pixels from 0 to 1, by channel")] = "1",
    uint8_input: Annotated[
        bool, typer.Option("--uint8-input", help="the int8 file takes uint8 images and prepares them itself (not .pte)")
    ] = False,
    pad: Annotated[
        int, typer.Option(help="of texts, the padding token's number, where the file takes a mask beside token numbers")
    ] = 0,
    integer_io: Annotated[
        bool, typer.Option("--integer-io", help="a .tflite file that takes and gives int8 (with --uint8-input: gives)")
    ] = False,
    attention: Annotated[
        bool, typer.Option("--attention", help="products within attention in int8, too (static; slower in .pt2)")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="threads of each runtime")] = 1,
    plain: Plain = False,
    as_json: AsJson = False,
) -> None:
    """Makes an int8 file from your own float32 ONNX file and measures both side by side; without labels or PyTorch."""
    with explained(as_json) as emit:
        from distiq.commands.quantize_file import quantize_file, scheme_of
        from distiq.data.inputs import Preparation
        from distiq.report.show import show_own_file

        console = Console(highlight=False)
        with watching(console, plain) as watch:
            record = quantize_file(
                model,
                data,
                out or model.with_suffix(".float16.onnx" if mode == "float16" else ".int8.onnx"),
                scheme_of(
                    ranges,
                    rounding,
                    equalize,
                    weight_bits,
                    reduce_range,
                    iterations,
                    mode,
                    group_size,
                    integer_io,
                    attention,
                ),
                Preparation.written(size, mean, std),
                samples=samples,
                min_sqnr=min_sqnr,
                uint8_input=uint8_input,
                pad=pad,
                threads=threads,
                watch=watch,
            )
        show_own_file(record, console)
        emit(record)


def _named_shape(text: str) -> tuple[str, list[int]]:
    """The name of an input, empty for the only one, and the sizes of a sample: "depth=1,224,224"."""
    name, _, sizes = text.rpartition("=")
    if not all(size.strip().isdigit() for size in sizes.split(",")):
        raise UserError(f"--shape {text}: write the sizes of one sample with commas, such as 3,224,224")
    return name, [int(size) for size in sizes.split(",")]
