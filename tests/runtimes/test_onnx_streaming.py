"""Chunk in, state out: a streaming file computes, step by step, what the whole clip's file computes."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor

from distiq.errors import UserError
from distiq.models.audio import DSCNN, AudioGRU
from distiq.models.frontend import front_end
from distiq.quantization.quantize import quantize
from distiq.quantization.scheme import Scheme
from distiq.runtimes.export import export, load
from distiq.runtimes.onnx_streaming import StreamingModel, export_streaming

RATE, CLIPS = 4000, torch.randn(4, 2000, generator=torch.Generator().manual_seed(0)) / 4


@pytest.fixture(scope="module", params=["float", "int8", "int8, 25 by 10 ms", "mfcc"])
def file(request, tmp_path_factory) -> Path:
    """A whole clip's file. Windows of 25 ms do not begin at multiples of their hop of 10 ms before the clip."""
    torch.manual_seed(0)
    sizes = (25.0, 10.0) if "25" in request.param else (32.0, 16.0)
    features = "mfcc" if request.param == "mfcc" else "log_mel"
    model = AudioGRU(3, front_end(RATE, features, 12, 6, *sizes), width=8, hidden=6).eval()
    network = model if request.param == "float" else quantize(model, CLIPS, Scheme(float_modules=("frontend",)))
    return export(network, tmp_path_factory.mktemp("whole") / "model.onnx", CLIPS)


def answers_by_step(file: Path, step: int) -> Tensor:
    """What the file answers for whole clips if not the last step of its recurrence is classified but this one."""
    proto = onnx.load(str(file))
    last = next(node for node in proto.graph.node if node.op_type == "Gather").input[1]
    kept = [tensor for tensor in proto.graph.initializer if tensor.name != last]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend([*kept, numpy_helper.from_array(np.array(step, np.int64), last)])
    other = file.with_name(f"step{step}.onnx")
    onnx.save(proto, str(other))
    return load(other)(CLIPS)


def test_every_chunk_is_answered_as_the_whole_clip_s_step(file: Path, tmp_path: Path):
    listener = StreamingModel(export_streaming(file, tmp_path / "stream.onnx"))
    form, states, answers = listener.form, listener.start(len(CLIPS)), []
    chunks = [chunk for chunk in CLIPS.split(form.chunk, 1) if chunk.shape[1] == form.chunk]
    for chunk in chunks:
        logits, states = listener.hear(chunk, states)
        answers.append(logits)
    steps = answers[form.silent :]
    assert len(steps) > 10
    for number in (0, 1, len(steps) // 2, len(steps) - 1):
        torch.testing.assert_close(steps[number], answers_by_step(file, number), atol=1e-5, rtol=0)


def test_its_states_are_of_a_fixed_size(file: Path, tmp_path: Path):
    listener = StreamingModel(export_streaming(file, tmp_path / "stream.onnx"))
    first = listener.start()
    _, after = listener.hear(torch.zeros(1, listener.form.chunk), first)
    assert {name: value.shape for name, value in after.items()} == {name: value.shape for name, value in first.items()}
    for _ in range(5):
        _, after = listener.hear(torch.zeros(1, listener.form.chunk), after)
    assert int(after["heard"]) <= listener.form.silent + listener.form.bogus, "it counts no further than it has to"


def test_what_it_costs_in_samples(file: Path, tmp_path: Path):
    """By hand: 32 ms windows every 16 ms keep one hop; the convolution over 5 frames, stride 2, keeps 3."""
    form = StreamingModel(export_streaming(file, tmp_path / "stream.onnx")).form
    if form.chunk == 2 * 64:
        assert (form.samples, form.frames, form.bogus, form.silent) == (64, 3, 1, 1)
    else:  # 100 and 40 samples: two hops begin before the clip, a fourth frame brings the windows into step
        assert (form.chunk, form.samples, form.frames, form.bogus, form.silent) == (80, 80, 4, 2, 2)


def test_other_networks_and_chunks_are_refused(file: Path, tmp_path: Path):
    listener = StreamingModel(export_streaming(file, tmp_path / "stream.onnx"))
    with pytest.raises(UserError, match=r"a chunk of \(1, 7\); this file takes \(B,"):
        listener.hear(torch.zeros(1, 7), listener.start())
    with pytest.raises(UserError, match="does not take chunks; make one with export_streaming"):
        StreamingModel(file)
    pooled = DSCNN(3, front_end(RATE, bands=12), stem=4, widths=(4,), strides=(1,)).eval()
    with pytest.raises(UserError, match=r"takes chunks with a state; others predict windows"):
        export_streaming(export(pooled, tmp_path / "pooled.onnx", CLIPS), tmp_path / "no.onnx")
