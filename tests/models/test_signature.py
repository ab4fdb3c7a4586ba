"""Inputs and outputs by name: what networks return is read alike, and exporters get one form of every network."""

from collections import OrderedDict
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from distiq.errors import UserError
from distiq.models.build import check_output
from distiq.models.signature import (
    AffineParameters,
    OutputForm,
    Signature,
    TensorSpec,
    batch_size,
    call,
    concatenated,
    in_order,
    of_arrays,
    one_output,
    positional,
    read_outputs,
    split,
)

A, B = torch.zeros(2, 3), torch.ones(2, 4)


class Pair(NamedTuple):
    boxes: Tensor
    scores: Tensor


@pytest.mark.parametrize(
    ("returned", "names"),
    [
        ((A, B), ["output_0", "output_1"]),
        ([A, (B, A)], ["output_0", "output_1_0", "output_1_1"]),
        ({"boxes": A, "scores": B}, ["boxes", "scores"]),
        (Pair(A, B), ["boxes", "scores"]),
        (OrderedDict(logits=A, loss=None, hidden_states=(A, B)), ["logits", "hidden_states_0", "hidden_states_1"]),
    ],
)
def test_outputs_are_called_by_their_keys_or_numbers(returned, names: list[str]):
    assert list(read_outputs(returned)) == names


@pytest.mark.parametrize("returned", [A, (A,), {"logits": A}, [None, A]])
def test_the_only_output_is_a_tensor(returned):
    assert read_outputs(returned) is A


def test_an_output_of_transformers_is_read():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    output = transformers.modeling_outputs.SequenceClassifierOutput(logits=A, hidden_states=(B, B))
    assert one_output(output) is A


@pytest.mark.parametrize(
    ("returned", "message"),
    [(None, "NoneType without a tensor"), ((A, 3), "int as output_1; distiq reads tensors"), ([], "list without a")],
)
def test_what_holds_no_tensors_is_refused(returned, message: str):
    with pytest.raises(UserError, match=message):
        read_outputs(returned)


def test_a_loss_reads_the_output_called_logits():
    assert one_output({"boxes": B, "logits": A}) is A
    with pytest.raises(UserError, match='gives boxes, scores; the task reads one output: call it "logits"'):
        one_output(Pair(A, B))


def test_batches_of_several_inputs_are_cut_and_joined():
    inputs = {"a": torch.arange(5), "b": torch.arange(10).view(5, 2)}
    parts = list(split(inputs, 2))
    assert [batch_size(part) for part in parts] == [2, 2, 1]
    assert all(torch.equal(joined, inputs[name]) for name, joined in concatenated(parts).items())


def test_inputs_go_by_name():
    assert in_order({"b": B, "a": A}, ["a", "b"], "net") == [A, B]
    assert in_order(A, ["whatever"], "net") == [A]
    with pytest.raises(UserError, match="net: takes a, b; b is given"):
        in_order({"b": B}, ["a", "b"], "net")


class Difference(nn.Module):
    def forward(self, left: Tensor, right: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        return {"difference": scale * (left - right), "left": left}


def test_what_computes_on_arrays_follows_the_convention_of_tensors():
    both = {"b": torch.tensor([[3.0]]), "a": torch.tensor([[5.0]])}
    single = of_arrays(lambda inputs: inputs["a"] - inputs["b"], ["a", "b"], "it")
    several = of_arrays(lambda inputs: {"x": inputs["a"], "y": inputs["b"]}, ["a", "b"], "it")
    assert single(both) == 2.0 and several(both) == {"x": 5.0, "y": 3.0}


def test_a_network_by_position_takes_its_inputs_in_their_order():
    left, right = torch.randn(2, 3), torch.randn(2, 3)
    network = positional(Difference(), {"right": right, "left": left})
    assert (network.input_names, network.output_names) == (("left", "right"), ("difference", "left"))
    assert torch.equal(network.module(left, right)[0], left - right)
    assert torch.equal(call(Difference(), {"right": right, "left": left})["difference"], left - right)
    with pytest.raises(UserError, match="takes left, right, scale; it has no input called middle"):
        positional(Difference(), {"left": left, "middle": right})


def test_a_network_that_changes_its_input_is_refused():
    """The teacher, which reads the same rows, would see other ones."""

    class Centred(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sub_(1).relu()

    with pytest.raises(UserError, match=r"changes its input in place; write x = x - 1"):
        positional(Centred(), A.clone())
    with pytest.raises(UserError, match="student: the network changes its input in place"):
        check_output(Centred(), OutputForm(A.shape[1]), A[:1].clone(), "student")


def test_a_network_of_one_tensor_stays_as_it_is():
    linear = nn.Linear(3, 2)
    network = positional(linear, A)
    assert (network.module, network.has_usual_names) == (linear, True)
    assert "forward" not in vars(linear)


def test_a_signature_survives_json():
    quantized = TensorSpec("image", (-1, 3), torch.int8, AffineParameters(0.5, -3))
    signature = Signature((quantized,), (TensorSpec("boxes", (-1, 4), torch.float32),))
    assert Signature.from_json(signature.to_json()) == signature
