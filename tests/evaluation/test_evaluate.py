"""evaluate(): one way for eager, simulated and deployed models; counts by hand."""

import pytest
import torch
from torch import Tensor, nn

from distiq.data.splits import Data
from distiq.errors import UserError
from distiq.evaluation.evaluate import CHUNK, evaluate, outputs
from distiq.quantization.quantize import quantize
from distiq.runtimes.export import export, load


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
