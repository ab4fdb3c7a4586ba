"""One small .pt2 file, which takes long to compile: what it answers, holds and refuses. The rest: tests/contracts."""

import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distiq import environment
from distiq.commands.bench import bench
from distiq.device import run as runner
from distiq.errors import UserError
from distiq.evaluation.cost import multiply_adds
from distiq.models.recurrent import BiLSTM
from distiq.models.signature import positional
from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import differences, export, load, pair_sums, require
from distiq.runtimes.inductor import INDUCTOR, _try_out, lacks_compiler, signature, states_of_bilstm, work
from distiq.runtimes.inductor_file import float_operations, quantization_parameters
from distiq.runtimes.lowering import qparams_of, with_unsigned_activations
from distiq.runtimes.runtime import Work

CHANNELS = 20  # more than one block of the packed weights


class Small(nn.Module):
    """A convolution, a depthwise one, a sum, a mean, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(CHANNELS)
        self.depthwise = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS)
        self.classifier = nn.Linear(CHANNELS, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu6(self.norm(self.stem(images)))
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(F.relu(self.depthwise(x) + x), 1), 1))


class Made(NamedTuple):
    model: nn.Module
    quantized: QuantizedModel
    path: Path
    left: list[Path]


def images_of(count: int, seed: int) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    if why := lacks_compiler():
        pytest.skip(why)
    torch.manual_seed(0)
    model = Small().eval()
    quantized = quantize(model, images_of(64, 1), Scheme())
    temporary, folder = tmp_path_factory.mktemp("temporary"), tmp_path_factory.mktemp("inductor")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(temporary))
        path = export(quantized, folder / "model.pt2", images_of(2, 2))
    return Made(model, quantized, path, [*temporary.iterdir(), *(one for one in folder.iterdir() if one != path)])


def test_it_answers_as_the_simulated_graph_at_any_batch_and_threads(made: Made):
    images = images_of(200, 3)
    with torch.no_grad():
        simulated = made.quantized(images)
    found = load(made.path)(images)
    span = simulated.max() - simulated.min()
    assert (found - simulated).abs().max() < 0.03 * span
    assert (found - simulated).abs().mean() < 0.005 * span
    # The last layer's sums of integers are exact; how they are scaled to float32 depends on the size of the batch.
    others = [torch.cat([load(made.path)(part) for part in images.split(size)]) for size in (32, 1)]
    for other in (*others, load(made.path, threads=2)(images)):
        torch.testing.assert_close(other, found, rtol=0, atol=1e-5 * float(span))
    assert torch.get_num_threads() == 1, "the process keeps its own number"


def test_it_holds_the_graphs_integers_and_scales(made: Made):
    assert differences(made.quantized, made.path) == ""
    found, graph = quantization_parameters(made.path), qparams_of(made.quantized.reference())
    assert len(found.weights) == len(graph.weights) == 3
    assert sorted(weight.integers.shape[0] for weight in found.weights) == [4, CHANNELS, CHANNELS]
    # The sum's result and the mean's are scales within a loop, and the mean's is read by the last layer, too.
    assert len(graph.activations) - len(found.activations) <= 1
    assert "quantizes no activation so" in differences(quantize(made.model, 3 * images_of(64, 1), Scheme()), made.path)


def test_its_sums_are_certified_where_it_can_run_without_vnni(made: Made, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("distiq.runtimes.inductor.needs_vnni", lambda path: False)
    assert "two products can leave 16 bits" in pair_sums(made.path)
    monkeypatch.setattr("distiq.runtimes.inductor.needs_vnni", lambda path: True)
    assert pair_sums(made.path) == ""


def test_its_layers_multiply_integers_alone(made: Made):
    assert float_operations(made.path) == ()


def test_it_says_what_it_takes_and_refuses_all_else(made: Made):
    (entry,) = signature(made.path).inputs
    assert (entry.name, entry.shape, entry.dtype) == ("input", (-1, 1, 8, 8), torch.float32)
    predict = load(made.path)
    for wrong in (torch.randn(2, 1, 8, 9), torch.randn(1, 8, 8), torch.randn(2, 1, 8, 8).double()):
        with pytest.raises(UserError, match=r"takes float32 of \[-1, 1, 8, 8\], not float"):
            predict(wrong)


def test_another_layout_in_memory_gives_the_same_predictions(made: Made):
    images = images_of(6, 4)
    strided = images.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(load(made.path)(strided), load(made.path)(images))


def test_the_runner_answers_as_distiq(made: Made):
    images = images_of(5, 5)
    assert np.array_equal(runner.load(made.path, 1)(images.numpy()), load(made.path)(images).numpy())


def test_a_lesser_processor_is_refused_before_it_runs_anything(made: Made, monkeypatch: pytest.MonkeyPatch):
    here = environment.describe()
    if not here.instruction_sets:
        pytest.skip("this processor has none of the instruction sets that distiq knows")
    monkeypatch.setattr(environment, "describe", lambda: here.model_copy(update={"instruction_sets": ()}))
    with pytest.raises(UserError, match=r"compiled for a processor with .*, which this one lacks; export it here"):
        load(made.path)
    monkeypatch.setattr(runner, "machine", lambda: {"instruction_sets": []})
    with pytest.raises(runner.Refused, match=r"model\.pt2: Inductor .*: it is compiled for a processor with"):
        runner.load(made.path, 1)


def test_it_says_what_it_multiplies(made: Made):
    assert work(made.path, [(1, 8, 8)]) == Work(multiply_adds(made.model, images_of(1, 0)), is_int8=True)
    assert work(made.path, [(1, 9, 9)]) is None, "another sample was not counted"


def test_a_recurrence_by_torchs_own_kernel_gives_the_same_states():
    torch.manual_seed(0)
    layer, vectors, lengths = BiLSTM(5, 7), torch.randn(6, 9, 5), torch.tensor([1, 9, 3, 4, 8, 2])
    weights = [getattr(layer, name).detach() for name in layer._flat_weights_names]
    with torch.no_grad():
        torch.testing.assert_close(states_of_bilstm(vectors, lengths, weights), layer(vectors, lengths))


def test_its_latency_is_measured(made: Made):
    (file,) = bench([made.path], rounds=1, seconds=0.002).files
    assert (file.runtime, [entry.batch for entry in file.latency]) == ("Inductor", [1, 32])


def test_nothing_is_left_of_the_compilation(made: Made):
    assert made.left == []


def test_without_a_compiler_files_are_run_but_not_written(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="compiles with no-such-compiler, which is not installed here: apt-get install"):
        export(made.quantized, tmp_path / "model.pt2", images_of(2, 2))
    with pytest.raises(UserError, match="no-such-compiler"):
        require(INDUCTOR, to_write=True)
    require(INDUCTOR)
    assert load(made.path)(images_of(3, 6)).shape == (3, 4)


def test_unsigned_activations_change_no_answer(made: Made):
    images = images_of(50, 7)
    reference = made.quantized.reference()
    unsigned = with_unsigned_activations(reference)
    with torch.no_grad():
        assert torch.equal(unsigned(images), reference(images))
    assert "torch.int8" not in " ".join(str(node.args) for node in unsigned.graph.nodes if "tensor" in str(node.target))


@pytest.mark.slow
def test_code_that_crashes_or_answers_otherwise_is_not_delivered(made: Made, tmp_path: Path):
    shutil.copy(made.path, tmp_path / "model.pt2")
    reference, example = made.quantized.reference(), images_of(2, 8)
    with torch.no_grad():
        _try_out(positional(reference, example), tmp_path)
        with pytest.raises(RuntimeError, match="its code computes 1 samples otherwise than the network"):
            _try_out(positional(nn.Sequential(reference, Negative()), example), tmp_path)
        (tmp_path / "model.pt2").write_bytes(b"no library")
        with pytest.raises(RuntimeError, match="its code fails with 1 samples"):
            _try_out(positional(reference, example), tmp_path)


class Negative(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return -x
