"""tune(): every setting is timed on the real runtime; only one that is faster and answers alike is chosen."""

from pathlib import Path

import pytest
import torch

from distiq.device import run as runner
from distiq.errors import UserError
from distiq.records.speed import SpeedRecord
from distiq.runtimes.export import export, load
from distiq.runtimes.onnx_runtime import SETTINGS
from distiq.timing import tune as tuning
from distiq.timing.tune import _same, tune


@pytest.fixture(scope="module")
def inputs() -> torch.Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, inputs: torch.Tensor) -> Path:
    return export(torch.nn.Linear(3, 2).eval(), tmp_path_factory.mktemp("tuned") / "model.onnx", inputs)


def speeds(*ratios: float):
    """In place of the clock: which of two sessions of microseconds wins is chance."""
    known = iter(SpeedRecord(ratio=r, interval=(r, r), verdict="faster" if r > 1 else "slower") for r in ratios)
    return lambda before, after: next(known)


def test_every_setting_is_tried_with_all_threads_and_with_one(file: Path, inputs: torch.Tensor):
    found = tune(file, 2, inputs, rounds=2, seconds=0.002)
    assert [(entry.threads, entry.options) for entry in found.tried] == [(n, o) for n in (2, 1) for o in SETTINGS]
    assert all(entry.same_predictions and entry.latency.threads == entry.threads for entry in found.tried)
    assert found.tried[0].against_default.ratio == 1
    assert len(tune(file, 1, inputs, rounds=1, seconds=0.002).tried) == len(SETTINGS)


@pytest.mark.parametrize(("ratios", "same", "chosen"), [((1, 2.0), True, 1), ((1, 0.5), True, 0), ((1, 2.0), False, 0)])
def test_the_default_gives_way_to_what_is_faster_and_answers_alike(
    ratios: tuple[float, ...], same: bool, chosen: int, file: Path, inputs: torch.Tensor, monkeypatch
):
    monkeypatch.setattr(tuning, "paired_speed", speeds(*ratios))
    monkeypatch.setattr(tuning, "_same", lambda found, expected: same)
    assert tune(file, 1, inputs, rounds=1, seconds=0.002).chosen == chosen


def test_another_precision_is_told_from_another_order_of_sums():
    logits = torch.randn(64, 10, generator=torch.Generator().manual_seed(1))
    assert _same(logits * (1 + 1e-6), logits)
    assert not _same(logits.bfloat16().float(), logits)
    swapped = logits.clone()
    swapped[0] = swapped[0].flip(0)
    assert not _same(swapped, logits)


def test_options_reach_the_session_here_and_in_the_bundle_runner(file: Path, inputs: torch.Tensor):
    wanted = load(file)(inputs)
    for options in (*SETTINGS, {"graph_optimization_level": "disable"}, {"session.intra_op.allow_spinning": "0"}):
        torch.testing.assert_close(load(file, 1, options)(inputs), wanted)
        torch.testing.assert_close(torch.from_numpy(runner.load(file, 1, options)(inputs.numpy())), wanted)
    with pytest.raises(UserError, match="cannot load this file"):
        load(file, 1, {"graph_optimization_level": "most"})
    with pytest.raises(runner.Refused, match="cannot load this file"):
        runner.load(file, 1, {"graph_optimization_level": "most"})
