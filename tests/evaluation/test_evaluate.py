"""evaluate(): one way for eager, simulated and deployed models; counts by hand."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from distiq.data.samples import in_memory
from distiq.data.splits import Data
from distiq.data.text import Text
from distiq.errors import UserError
from distiq.evaluation.evaluate import CHUNK, evaluate, outputs
from distiq.models.signature import one_output
from distiq.quantization.quantize import quantize
from distiq.runtimes.export import export, load
from distiq.tasks.choose import task_of


def oracle(images: Tensor) -> Tensor:
    """Reads the label from the first pixel."""
    return nn.functional.one_hot(images[:, 0, 0, 0].round().long(), 3).float()


def test_all_right_and_all_wrong(data: Data):
    right = evaluate(oracle, data)
    assert (right.samples, right.value, right.per_class) == (300, 1.0, (1.0, 1.0, 1.0))
    wrong = evaluate(lambda images: oracle(images).roll(1, 1), data)
    assert wrong.value == 0.0
    assert wrong.primary.interval[0] == pytest.approx(0, abs=1e-12)
    assert wrong.primary.interval[1] > 0.01


def test_the_split_is_the_one_asked_for_and_the_test_split_by_default(data: Data):
    assert evaluate(oracle, data).samples == len(data.test)
    assert evaluate(oracle, data, data.validation).samples == len(data.validation) == 20


def test_outputs_are_in_order_and_in_chunks(data: Data):
    sizes = []

    def predict(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return oracle(images)

    assert torch.equal(outputs(predict, data, data.test).argmax(1), data.test.labels)
    assert sizes == [CHUNK, 300 - CHUNK]


def test_eager_simulated_and_deployed_go_the_same_way(data: Data, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    quantized = quantize(model, data.normalize(data.calibration.inputs))
    deployed = load(export(quantized, tmp_path / "int8.onnx", data.calibration.inputs))
    with torch.no_grad():
        logits = model(data.normalize(data.test.inputs))
    eager = evaluate(model, data)
    assert eager.value == int((logits.argmax(1) == data.test.labels).sum()) / 300
    for predict in (quantized, deployed):
        record = evaluate(predict, data, teacher=logits, float_student=logits)
        agreement, flips = record.agreement_with_teacher.value, record.change_against_float.value
        assert agreement > 0.9 and flips == pytest.approx(1 - agreement)
        assert abs(record.value - eager.value) <= flips + 1e-9


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_are_refused(value: float, data: Data):
    def broken(images: Tensor) -> Tensor:
        logits = oracle(images)
        logits[5, 1] = value
        return logits

    with pytest.raises(UserError, match="not finite for sample 5"):
        evaluate(broken, data)


def test_the_wrong_number_of_classes_is_refused(data: Data):
    with pytest.raises(UserError, match=r"gives \(\d+, 2\) for \d+ samples; classification needs 3 outputs each"):
        evaluate(lambda images: oracle(images)[:, :2], data)


def texts(data: Data) -> Data:
    """300 test texts of 2 to 7 of at most 20 tokens, which are 1 or 2; 0 is padding."""
    made = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 3, (300, 20), generator=made)
    tokens[torch.arange(20) >= torch.randint(2, 8, (300, 1), generator=made)] = 0
    return replace(data, preprocessing=Text((20,), 3), test=in_memory(tokens, data.test.labels))


@pytest.mark.parametrize(
    ("pads", "seen"),
    [
        (lambda tokens: 0, 7),  # padding changes nothing, and is left out
        (lambda tokens: tokens.shape[1], 20),  # it does
        (lambda tokens: 0 if tokens.shape[1] == 20 else 1 // 0, 20),  # a file of one length
    ],
)
def test_padding_of_texts_is_left_out_where_it_changes_nothing(data: Data, pads: Callable[[Tensor], int], seen: int):
    own, shapes = texts(data), []

    def predict(tokens: Tensor) -> Tensor:
        shapes.append(tokens.shape[1])
        return torch.stack([(tokens == number).sum(1) + pads(tokens) for number in range(1, 4)], 1).float()

    expected = torch.cat([predict(part) for part in own.test.inputs.split(1)]) if seen == 20 else None
    found = outputs(predict, own, own.test)
    counts = torch.stack([(own.test.inputs == number).sum(1) for number in range(1, 4)], 1).float()
    assert torch.equal(found, counts if expected is None else expected)
    assert shapes[-1] == seen


def test_tags_of_padding_are_zero(data: Data):
    own = texts(data)
    tagger = replace(task_of(data), outputs=2, read=one_output)
    found = outputs(lambda tokens: torch.stack([tokens.float(), -tokens.float()], 1), own, own.test, tagger)
    assert torch.equal(found[:, 0], own.test.inputs.float())
