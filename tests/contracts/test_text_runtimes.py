"""Networks over token numbers as Inductor files, which take long to make: any length, the graph's integers and answers.

ONNX files of such networks: tests/runtimes/test_text_files.py.
"""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distiq.models.transformer import cut_encoder
from distiq.quantization.quantize import QuantizedModel, quantize
from distiq.runtimes import inductor
from distiq.runtimes.export import differences, export, load
from tests.runtimes.test_text_files import LENGTH, NETWORKS, small_bert, texts

pytestmark = pytest.mark.slow
BARE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("distiq", "torchao", "transformers"):
            raise ImportError(f"{name} is not on the device")
sys.meta_path.insert(0, Refuse())
import importlib.util, pathlib, numpy
spec = importlib.util.spec_from_file_location("runner", sys.argv[1])
runner = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runner)
numpy.save(sys.argv[4], runner.load(pathlib.Path(sys.argv[2]), 1)(numpy.load(sys.argv[3])))
"""


def cut_bert() -> nn.Module:
    """A student cut from a BERT of two layers: one layer, one head, half of the inner width."""
    network = small_bert(layers=2)
    cut_encoder(network.model, {"keep_layers": [1], "heads": 1, "feed_forward": 16})
    return network


FAMILIES = {**NETWORKS, "cut_bert": cut_bert}


class Files(NamedTuple):
    model: nn.Module
    quantized: QuantizedModel
    float_file: Path
    int8_file: Path


@pytest.fixture(scope="module", params=FAMILIES)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Files:
    if why := inductor.lacks_compiler():
        pytest.skip(why)
    torch.manual_seed(0)
    model, folder = FAMILIES[request.param]().eval(), tmp_path_factory.mktemp(request.param)
    for parameter in model.parameters():  # fresh heads are so small that their answers are all alike
        parameter.data *= 3
    quantized = quantize(model, texts(64))
    paths = [export(form, folder / f"{name}.pt2", texts(2)) for name, form in (("float", model), ("int8", quantized))]
    return Files(model, quantized, *paths)


@pytest.mark.parametrize("length", [2, 7, LENGTH])
def test_files_answer_texts_of_any_length_and_number(files: Files, length: int):
    tokens = texts(40, length)
    with torch.no_grad():
        torch.testing.assert_close(load(files.float_file)(tokens), files.model(tokens), atol=1e-4, rtol=1e-4)
        simulated = files.quantized(tokens)
    found, spread = load(files.int8_file)(tokens), float(simulated.max() - simulated.min())
    assert float((found - simulated).abs().max()) <= 0.02 * spread
    top = simulated.topk(2, dim=1).values
    clear = top[:, 0] - top[:, 1] > 0.02 * spread
    assert torch.equal(simulated.argmax(1)[clear], found.argmax(1)[clear])
    predict, step = load(files.int8_file), 1e-5 * spread
    for size in (1, 32):
        torch.testing.assert_close(torch.cat([predict(part) for part in tokens.split(size)]), found, rtol=0, atol=step)
    torch.testing.assert_close(load(files.int8_file, threads=2)(tokens), found, rtol=0, atol=step)


def test_padding_changes_no_answer(files: Files):
    tokens = texts(9, 7)
    padded = torch.cat([tokens, torch.zeros(9, LENGTH - 7, dtype=torch.int64)], 1)
    torch.testing.assert_close(load(files.float_file)(padded), load(files.float_file)(tokens), atol=1e-4, rtol=1e-4)


def test_the_file_holds_the_integers_and_scales_of_the_graph(files: Files):
    assert differences(files.quantized, files.int8_file) == ""
    found = inductor.quantization_parameters(files.int8_file)
    multiplied = [weight for weight in found.weights if weight.is_multiplied]
    assert len(multiplied) == sum(isinstance(module, nn.Linear) for module in files.model.modules())
    tables = {weight.integers.shape for weight in found.weights if not weight.is_multiplied}
    assert {tuple(one.weight.shape) for one in files.model.modules() if isinstance(one, nn.Embedding)} <= tables


def test_a_process_without_distiq_runs_it(files: Files, tmp_path: Path):
    tokens: Tensor = texts(5, 6)
    np.save(tmp_path / "tokens.npy", tokens.numpy())
    runner = inductor.__file__.replace("runtimes/inductor.py", "device/run.py")
    named = [runner, files.int8_file, tmp_path / "tokens.npy"]
    command = [sys.executable, "-c", BARE, *map(str, named), str(tmp_path / "answers.npy")]
    subprocess.run(command, check=True, cwd=tmp_path, env={"OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"})
    found = torch.from_numpy(np.load(tmp_path / "answers.npy"))
    torch.testing.assert_close(found, load(files.int8_file)(tokens), rtol=0, atol=1e-6)


def test_it_says_how_much_it_multiplies(files: Files):
    counted = inductor.work(files.int8_file, [(LENGTH,)])
    assert counted is not None and counted.is_int8
    plain = inductor.work(files.float_file, [(LENGTH,)])
    assert plain is not None and not plain.is_int8
    assert counted.macs == plain.macs
    assert inductor.work(files.int8_file, [(LENGTH - 1,)]) is None
