"""distiq quantize: from someone's own ONNX file and samples to a measured int8 file, by the command line."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from distiq.cli.main import app
from distiq.commands.quantize_file import quantize_file, scheme_of
from distiq.data.inputs import Preparation
from distiq.models.from_onnx import read_onnx
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.records.run import OwnFileRecord
from distiq.runtimes.export import checksums, export, load, runtime_of


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    images = torch.randn(40, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    np.save(folder / "samples.npy", images.numpy())
    return export(network(), folder / "net.onnx", images[:2])


class TwoEnds(nn.Module):
    """Two inputs, two outputs of very different range."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.boxes, self.scores = nn.Conv2d(4, 8, 3, 2, 1), nn.Linear(8, 4), nn.Linear(8, 6)

    def forward(self, image: Tensor, depth: Tensor) -> dict[str, Tensor]:
        x = torch.relu(self.body(torch.cat([image, depth], 1))).mean((2, 3), keepdim=True).flatten(1)
        return {"boxes": self.boxes(x) * 300, "scores": self.scores(x)}


def test_a_file_of_two_inputs_and_outputs_is_quantized_by_name(tmp_path: Path):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    samples = {name: torch.randn(160, size, 8, 12, generator=generator) for name, size in (("depth", 1), ("image", 3))}
    source = export(TwoEnds().eval(), tmp_path / "two.onnx", {name: one[:2] for name, one in samples.items()})
    np.savez(tmp_path / "samples.npz", **{name: one.numpy() for name, one in samples.items()})
    out = tmp_path / "int8.onnx"
    result = distiq(source, "--data", tmp_path / "samples.npz", "--out", out, "--json")
    assert result.exit_code == 0, result.output
    assert "SQNR of boxes" in result.stderr and "SQNR of scores" in result.stderr
    measured = OwnFileRecord.model_validate_json(result.stdout)
    assert measured.sqnr_by_output.keys() == {"boxes", "scores"}
    # Half of the samples calibrate; of 40 they would miss the others' extremes, and 26 dB be left.
    assert 40 < measured.sqnr_db == min(measured.sqnr_by_output.values())
    assert list(load(out)(samples)) == ["boxes", "scores"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": (4, 3, 8, 12)}, "holds image; the network takes image, depth: store an array for each"),
        ({"image": (4, 3, 8, 12), "depth": (5, 1, 8, 12)}, "4 of image, 5 of depth; every input needs as many"),
        ({"image": (4, 3, 8, 12), "depth": (4, 1, 8, 8)}, '"depth": holds an array of shape'),
    ],
)
def test_arrays_that_fit_no_input_are_refused(arrays: dict, message: str, tmp_path: Path):
    shapes = {"image": (2, 3, 8, 12), "depth": (2, 1, 8, 12)}
    source = export(
        TwoEnds().eval(), tmp_path / "two.onnx", {name: torch.zeros(shape) for name, shape in shapes.items()}
    )
    np.savez(tmp_path / "samples.npz", **{name: np.zeros(shape, np.float32) for name, shape in arrays.items()})
    result = distiq(source, "--data", tmp_path / "samples.npz", "--out", tmp_path / "int8.onnx")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


class Joined(nn.Module):
    """Boxes in pixels and scores in one output, as exporters of detectors write it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.boxes, self.scores = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 4, 1), nn.Conv2d(16, 6, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.body(image))
        return torch.cat([self.boxes(x) * 300, self.scores(x).sigmoid()], 1).flatten(2)


def test_boxes_and_scores_in_one_output_are_kept_apart_and_it_is_said(tmp_path: Path):
    torch.manual_seed(0)
    images = torch.randn(80, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    source = export(Joined().eval(), tmp_path / "joined.onnx", images[:2])
    np.save(tmp_path / "samples.npy", images.numpy())
    # In an .onnx file a small network might be slower than float32, and quantized in another way.
    result = distiq(source, "--data", tmp_path / "samples.npy", "--out", tmp_path / "int8.xml", "--json")
    assert result.exit_code == 0, result.output
    measured = OwnFileRecord.model_validate_json(result.stdout)
    assert list(measured.sqnr_by_output) == ["channels 0 to 3", "channels 4 to 9"]
    assert measured.sqnr_db == min(measured.sqnr_by_output.values()) > 25
    assert any("joins outputs of unlike range" in note for note in measured.notes)


def test_the_int8_file_takes_the_place_of_the_other_by_name(tmp_path: Path):
    source, images = tmp_path / "net.onnx", torch.randn(8, 1, 12, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network(), (images[:2],), source, input_names=["image"], output_names=["input"], dynamo=False,
                          dynamic_axes={"image": {0: "batch"}}, verbose=False)  # fmt: skip
    np.save(tmp_path / "samples.npy", images.numpy())
    quantize_file(
        source, tmp_path / "samples.npy", tmp_path / "out.onnx", Scheme(), Preparation(), rounds=1, seconds=0.002
    )
    names = [tuple(one.name for one in ends) for ends in runtime_of(source).signature(tmp_path / "out.onnx")]
    assert names == [("image",), ("input",)]
    error = (load(tmp_path / "out.onnx")(images) - network()(images)).abs().max()
    assert error < 0.05


def distiq(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["quantize", *map(str, arguments)])


def test_float16_is_asked_for_by_name(own: Path):
    result = distiq(own, "--data", own.with_name("samples.npy"), "--mode", "float16", "--json")
    assert result.exit_code == 0, result.output
    measured = OwnFileRecord.model_validate_json(result.stdout)
    assert measured.delivered == "float16 weights" and measured.agreement == 1.0 and measured.sqnr_db > 60
    assert measured.scheme.startswith("float16 weights, computed in float32")
    assert own.with_suffix(".float16.onnx").is_file(), "named after what it holds"


def test_the_command_writes_and_measures_an_int8_file(own: Path, tmp_path: Path):
    out = tmp_path / "small.onnx"
    result = distiq(own, "--data", own.with_name("samples.npy"), "--out", out, "--json", "--ranges", "minmax",
                    "--rounding", "nearest")  # fmt: skip
    assert result.exit_code == 0, result.output
    for part in (
        "Equal predictions",
        "20 held-out samples",
        "SQNR of the outputs",
        "Batch 32",
        "Float operations left  0",
    ):
        assert part in result.stderr, result.stderr
    found = OwnFileRecord.model_validate_json(result.stdout)
    assert (found.calibration_samples, found.compared_samples, found.float_operations) == (20, 20, ())
    assert found.pair_sums.startswith("not certified") and "--reduce-range" in found.pair_sums
    assert found.operations["QLinearConv"] == {"int8": 2}
    one = found.bench.files[1].latency[0].p50_ms > found.bench.files[0].latency[0].p50_ms
    many = found.bench.files[1].latency[1].p50_ms > found.bench.files[0].latency[1].p50_ms
    assert ("measured slower" in result.stderr) == (one or many)
    images = torch.from_numpy(np.load(own.with_name("samples.npy")))
    same = quantize(network(), images[::2], scheme_of("minmax", "nearest", False, 8, False))
    torch.testing.assert_close(load(out)(images), same(images), rtol=1e-4, atol=1e-4)


def test_a_folder_of_images_is_prepared_as_asked(tmp_path: Path, photos: Path):
    folder = photos / "test"
    example = torch.zeros(2, 3, 12, 12)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 2)).eval()
    own = export(model, tmp_path / "net.onnx", example)
    how = Preparation.written("", "0.5,0.4,0.3", "0.2")
    found = quantize_file(own, folder, tmp_path / "out.onnx", scheme_of("mse", "gptq", True, 4, False), how,
                          samples=3, rounds=1, seconds=0.002)  # fmt: skip
    assert found.calibration_samples == 3
    assert found.compared_samples > 3
    assert found.scheme == "static W4A8, mse, equalized, closed-form rounding"


def test_a_file_that_takes_pixels_answers_as_one_that_takes_inputs(tmp_path: Path, photos: Path):
    own = export(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 2)).eval(),
                 tmp_path / "net.onnx", torch.zeros(2, 3, 12, 12))  # fmt: skip
    how, scheme = Preparation.written("", "0.5,0.4,0.3", "0.2"), scheme_of("minmax", "nearest", False, 8, False)
    settings = {"samples": 8, "rounds": 1, "seconds": 0.002}
    found = [
        quantize_file(
            own, photos / "test", tmp_path / f"{name}.onnx", scheme, how, uint8_input=name == "pixels", **settings
        )
        for name in ("inputs", "pixels")
    ]
    assert found[0].agreement == found[1].agreement
    assert found[0].sqnr_db == pytest.approx(found[1].sqnr_db, abs=1e-3)
    raw = torch.randint(256, (5, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ready = (raw / 255 - torch.tensor(how.mean).view(1, -1, 1, 1)) / how.std[0]
    assert torch.equal(how.pixels(ready), raw)
    torch.testing.assert_close(load(tmp_path / "pixels.onnx")(raw), load(tmp_path / "inputs.onnx")(ready))


@pytest.mark.slow
def test_a_file_of_integer_weights_alone_is_made_too(own: Path, tmp_path: Path):
    out = tmp_path / "small.onnx"
    result = distiq(own, "--data", own.with_name("samples.npy"), "--out", out, "--mode", "weight_only",
                    "--rounding", "nearest")  # fmt: skip
    assert result.exit_code == 0, result.output
    images = torch.from_numpy(np.load(own.with_name("samples.npy")))
    same = quantize(network(), images, Scheme(mode="weight_only"))
    torch.testing.assert_close(load(out)(images), same(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((8, 1, 10, 12), np.float32), "shape (8, 1, 10, 12); the network takes (samples, 1, 12, 12)"),
        (np.zeros((8, 1, 12, 12), np.uint8), "holds uint8, the network takes float32"),
        (np.full((8, 1, 12, 12), np.nan, np.float32), "sample 0 holds NaN or infinite values (8 samples do)"),
        (np.zeros((1, 1, 12, 12), np.float32), "1 samples found; at least 2 are needed"),
        (np.array([{}], object), "cannot be read as an array"),
    ],
)  # fmt: skip
def test_samples_that_do_not_fit_are_refused(array: np.ndarray, message: str, own: Path, tmp_path: Path):
    np.save(tmp_path / "bad.npy", array)
    result = distiq(own, "--data", tmp_path / "bad.npy", "--out", tmp_path / "out.onnx")
    assert (result.exit_code, list(tmp_path.glob("*out*"))) == (2, [])
    assert message in result.stderr
    assert "Traceback" not in result.output


class Reader(nn.Module):
    """Reads texts of exactly six tokens: it adds a vector for each position."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.positions = nn.Embedding(20, 8), nn.Parameter(torch.randn(1, 6, 8))
        self.norm, self.last = nn.LayerNorm(8), nn.Linear(48, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.table(tokens) + self.positions).reshape(-1, 48))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("reader") / "reader.onnx"
    free = ({0: torch.export.Dim("batch")},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = (torch.zeros(2, 6, dtype=torch.int64),)
        torch.onnx.export(Reader().eval(), example, path, dynamo=True, dynamic_shapes=free, verbose=False)
    return path


def test_tokens_of_a_fixed_length_keep_it(reader: Path, tmp_path: Path):
    tokens = torch.randint(20, (40, 6), generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "tokens.npy", tokens.numpy())
    scheme = scheme_of("mse", "gptq", False, 8, False)
    out = tmp_path / "out.onnx"
    found = quantize_file(reader, tmp_path / "tokens.npy", out, scheme, Preparation(), rounds=1, seconds=0.002)
    assert found.sqnr_db > 25
    (entry,) = runtime_of(out).signature(out).inputs
    assert (entry.shape, entry.dtype) == ((-1, 6), torch.int64)


@pytest.mark.parametrize("row", [0, 1])  # the first is calibrated on, the second compared
def test_tokens_that_the_network_does_not_know_are_refused(row: int, reader: Path, tmp_path: Path):
    tokens = np.zeros((4, 6), np.int64)
    tokens[row, 2] = 20
    np.save(tmp_path / "tokens.npy", tokens)
    result = distiq(reader, "--data", tmp_path / "tokens.npy", "--out", tmp_path / "out.onnx")
    assert result.exit_code == 2
    assert "tokens.npy: " in result.stderr and "does not run on these samples" in result.stderr
    assert "idx=20 must be within" in result.stderr and not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{own}", "--data", "missing"], "missing: no such folder or file"),
        (["{own}", "--data", "{empty}"], "0 images found"),
        (["no.onnx", "--data", "{samples}"], "no.onnx: no such file"),
        (["net.pt", "--data", "{samples}"], "net.pt: distiq quantizes .onnx files"),
        (["{own}", "--data", "{samples}", "--out", "{own}"], "is the float32 file itself"),
        (["{own}", "--data", "{samples}", "--out", "a.h5"], "distiq writes and runs .onnx"),
        (["{own}", "--data", "{samples}", "--weight-bits", "5"], "distiq quantizes weights to 2, 3, 4"),
        (["{own}", "--data", "{samples}", "--std", "0"], "std above 0"),
        (["{own}", "--data", "{samples}", "--mode", "dynamic", "--out", "a.xml"], 'nearest: mode = "weight_only"'),
        (["{own}", "--data", "{samples}", "--group-size", "32"], 'nearest: mode = "weight_only", or group_size = 0'),
        (["{own}", "--data", "{samples}", "--size", "12"], "--size 12: write height and width"),
        (["{own}", "--data", "{samples}", "--uint8-input"], "--uint8-input is for a folder of images"),
    ],
)
def test_bad_arguments_end_with_2(arguments: list[str], message: str, own: Path, tmp_path: Path):
    places = {"own": own, "samples": own.with_name("samples.npy"), "empty": tmp_path}
    result = distiq(*[argument.format(**places) for argument in arguments])
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_quantized_file_is_refused(own: Path, tmp_path: Path):
    images = torch.from_numpy(np.load(own.with_name("samples.npy")))
    int8 = export(quantize(read_onnx(own), images), tmp_path / "int8.onnx", images[:2])
    result = distiq(int8, "--data", own.with_name("samples.npy"))
    assert result.exit_code == 2
    assert "is quantized already (DequantizeLinear, QuantizeLinear); give the float32 file" in result.stderr


class Masked(nn.Module):
    """The masked mean of embeddings behind a layer, as files of transformers take texts."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.first, self.last = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        weights = attention_mask.float().unsqueeze(2)
        return self.last((torch.relu(self.first(self.table(input_ids))) * weights).sum(1) / weights.sum(1))


@pytest.mark.slow
def test_a_file_of_texts_with_a_mask_becomes_one_that_works_it_out(tmp_path: Path):
    torch.manual_seed(0)
    names, path, out = ["input_ids", "attention_mask"], tmp_path / "masked.onnx", tmp_path / "out.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = tuple(torch.ones(2, 6, dtype=torch.int64) for _ in names)
        free = ({0: torch.export.Dim("b"), 1: torch.export.Dim("l", max=9)},) * 2
        torch.onnx.export(Masked().eval(), example, path, input_names=names, dynamo=True, dynamic_shapes=free,
                          verbose=False)  # fmt: skip
    tokens = torch.randint(1, 20, (40, 6), generator=torch.Generator().manual_seed(0))
    tokens[::3, 4:] = 0
    np.save(tmp_path / "tokens.npy", tokens.numpy())
    result = distiq(path, "--data", tmp_path / "tokens.npy", "--out", out, "--json")
    assert result.exit_code == 0, result.output
    found = OwnFileRecord.model_validate_json(result.stdout)
    assert found.sqnr_db > 25
    assert [file.file for file in found.bench.files] == [str(path), str(out)]
    assert found.bench.files[0].sha256 == checksums(path)
    assert runtime_of(out).signature(out).inputs[0].shape == (-1, -1)
    padded = torch.cat([tokens[:5], torch.zeros(5, 1, dtype=torch.int64)], 1)
    torch.testing.assert_close(load(out)(padded), load(out)(tokens[:5]), rtol=0, atol=1e-5)
