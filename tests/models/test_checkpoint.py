"""Weights in the forms that people have: each is made here, loaded, and what was unwrapped is said."""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from distiq.errors import UserError
from distiq.models.checkpoint import load_weights
from distiq.models.create import Logits
from distiq.progress import Silent

State = dict[str, Tensor]


class Notes(Silent):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def make(seed: int, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    named = {"conv1": nn.Conv2d(1, 4, 3, bias=False), "bn1": nn.BatchNorm2d(4), "pool": nn.AdaptiveAvgPool2d(1)}
    model = nn.Sequential()
    for name, module in (named | {"flat": nn.Flatten(), "linear": nn.Linear(4, classes)}).items():
        model.add_module(name, module)
    return model


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def saved(content: Any, name: str = "w.pth") -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        torch.save(content, folder / name)
        return folder / name

    return save


def sharded(state: State, folder: Path, kind: str = "safetensors") -> Path:
    names = {name: f"model-0000{1 + number % 2}-of-00002.{kind}" for number, name in enumerate(state)}
    for file in set(names.values()):
        part = {name: value for name, value in state.items() if names[name] == file}
        (save_file if kind == "safetensors" else torch.save)(part, folder / file)
    index = folder / ("model.safetensors.index.json" if kind == "safetensors" else "pytorch_model.bin.index.json")
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return index


def accelerate_folder(state: State, folder: Path) -> Path:
    save_file(state, folder / "model.safetensors")
    torch.save({"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}, folder / "optimizer.bin")
    return folder


def averaged(model: nn.Module) -> State:
    return AveragedModel(model).state_dict()


RIGHT, OTHER = make(1), make(2)
STATE, DECOY = RIGHT.state_dict(), OTHER.state_dict()
ADAM = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
FORMS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "plain": (saved(STATE), ""),
    "akamaster": (
        saved({"state_dict": prefixed("module.", STATE), "best_prec1": np.float64(91.7)}, "resnet20.th"),
        'resnet20.th: took "state_dict", took "module." off the names',
    ),
    "kuangliu": (saved({"net": prefixed("module.", STATE), "acc": 95.0, "epoch": 199}), '"net", took "module." off'),
    "model": (saved({"model": STATE, "optimizer": ADAM, "epoch": 3}), 'took "model"'),
    "model_state_dict": (saved({"model_state_dict": STATE, "loss": 0.1}, "w.tar"), 'took "model_state_dict"'),
    "compiled": (saved(prefixed("_orig_mod.", STATE)), 'took "_orig_mod." off the names'),
    "compiled and distributed": (
        saved({"model": prefixed("module._orig_mod.", STATE)}),
        'took "module._orig_mod." off',
    ),
    "lightning": (
        saved(
            {
                "state_dict": prefixed("model.", STATE) | {"criterion.weight": torch.ones(3)},
                "hyper_parameters": {"lr": 0.1},
                "pytorch-lightning_version": "2.6.6",
                "optimizer_states": [ADAM],
            },
            "epoch=3.ckpt",
        ),
        'took "state_dict", took "model." off the names, left out 1 tensors that are not of this network',
    ),
    "timm": (
        saved(
            {
                "arch": "resnet18",
                "args": argparse.Namespace(lr=0.1, data_dir=Path("/data")),
                "state_dict": DECOY,
                "state_dict_ema": STATE,
                "metric": np.float32(0.7),
            },
            "model_best.pth.tar",
        ),
        'took "state_dict_ema", the moving average of the weights',
    ),
    "average": (saved(averaged(RIGHT)), 'took "module." off the names'),
    "accelerate": (lambda folder: accelerate_folder(STATE, folder), ""),
    "shards": (lambda folder: sharded(STATE, folder), ""),
    "folder of shards": (lambda folder: sharded(STATE, folder).parent, ""),
    "shards of pickles": (lambda folder: sharded(STATE, folder, "bin"), ""),
    "pytorch_model.bin": (saved(STATE, "pytorch_model.bin"), ""),
    "before counters": (saved({name: value for name, value in STATE.items() if "tracked" not in name}), ""),
    "average under a key": (
        saved({"model": DECOY, "ema_state_dict": {"decay": 0.99, "module": STATE}}),
        'took "ema_state_dict.module", the moving average of the weights',
    ),
    "average under a prefix": (
        saved(prefixed("online_model.", DECOY) | prefixed("ema_model.", STATE) | {"step": torch.tensor(5)}),
        'the moving average of the weights, took "ema_model." off the names',
    ),
    "a tuple": (saved((STATE, ADAM)), 'took "0"'),
    "arrays": (saved({name: value.numpy() for name, value in STATE.items()}), ""),
    "meters": (
        saved({"model": STATE, "meters": defaultdict(list), "when": datetime.now(), "losses": np.zeros(3)}),
        'took "model"',
    ),
    "half": (saved({name: value.bfloat16() for name, value in STATE.items()}), "brought bfloat16 to float32"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_loads_and_says_what_was_unwrapped(form: str, tmp_path: Path):
    save, said = FORMS[form]
    model, notes = make(3), Notes()
    load_weights(model, save(tmp_path), watch=notes)
    tolerance = 0.01 if form == "half" else 0
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, STATE[name], rtol=tolerance, atol=0)
    assert len(notes.texts) == bool(said)
    assert said in "".join(notes.texts)


def test_weights_of_a_library_network_load_into_its_wrapper(tmp_path: Path):
    wrapped = Logits(make(3))
    load_weights(wrapped, saved(STATE, "pytorch_model.bin")(tmp_path))
    assert torch.equal(wrapped.model.linear.weight, RIGHT.linear.weight)
    load_weights(wrapped, saved(Logits(OTHER).state_dict())(tmp_path))
    assert torch.equal(wrapped.model.linear.weight, OTHER.linear.weight)


def test_tied_weights_are_saved_once(tmp_path: Path):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    state = {name: value for name, value in model.state_dict().items() if name != "1.weight"}
    load_weights(model, saved(state)(tmp_path))
    with pytest.raises(UserError, match=r"1 missing \(1.weight\)"):
        load_weights(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), saved(state)(tmp_path))


def refusal(content: Any, folder: Path, model: nn.Module | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load_weights(model or make(3), saved(content)(folder))
    return str(caught.value).removeprefix(f"{folder}/w.pth: ")


def test_what_does_not_fit_is_a_short_list(tmp_path: Path):
    other = {name: value for name, value in make(1, classes=5).state_dict().items() if name != "bn1.bias"}
    message = refusal({"state_dict": prefixed("module.", other | {"linear.gate": torch.ones(1)})}, tmp_path)
    assert message == (
        "these weights do not fit the network: 1 missing (bn1.bias); 1 unexpected (linear.gate); 2 of another shape"
        " (linear.weight: (5, 4) in the file, (3, 4) in the network, linear.bias: (5,) in the file, (3,) in the"
        " network). Name the model and the options that they were trained with"
    )
    wide = refusal({f"layer{number}.weight": torch.zeros(1) for number in range(500)}, tmp_path)
    assert "7 missing (conv1.weight, bn1.weight, bn1.bias, ...); 500 unexpected (layer0.weight" in wide
    assert len(wide) < 400


@pytest.mark.parametrize(
    "content",
    [
        {"student": STATE, "teacher": DECOY},
        prefixed("student.", STATE) | prefixed("teacher.", DECOY),
    ],
    ids=["keys", "prefixes"],
)
def test_two_networks_that_fit_are_refused(content: Any, tmp_path: Path):
    message = refusal(content, tmp_path)
    assert message.startswith("two networks in it fit, ")
    assert "student" in message and "teacher" in message


def test_code_in_a_file_is_named(tmp_path: Path):
    assert "it holds a torch.nn.modules.container.Sequential); save model.state_dict()" in refusal(RIGHT, tmp_path)
    torch.jit.script(nn.ReLU()).save(tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"it is a TorchScript archive.*save model\.state_dict"):
        load_weights(make(3), tmp_path / "w.pt")


def test_a_new_head_is_left_to_train_and_said(tmp_path: Path):
    notes, model = Notes(), make(3, classes=5)
    before = model.linear.weight.clone()
    load_weights(model, saved(STATE)(tmp_path), watch=notes, new_head=True)
    assert torch.equal(model.conv1.weight, RIGHT.conv1.weight) and torch.equal(model.linear.weight, before)
    assert notes.texts == ["w.pth: its last layer gives 3 outputs; a new one of 5 is trained"]
    assert "2 of another shape" in refusal(STATE, tmp_path, make(3, classes=5))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "no index of shards (JSONDecodeError)"),
        ('{"weight_map": {"conv1.weight": "../other.safetensors"}}', "which is no file of weights beside it"),
        ('{"weight_map": {"conv1.weight": "none.safetensors"}}', "none.safetensors: no such file"),
    ],
)
def test_broken_indices_are_refused(index: str, message: str, tmp_path: Path):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError) as caught:
        load_weights(make(3), tmp_path)
    assert message in str(caught.value)


def test_a_shard_that_lacks_a_tensor_is_refused(tmp_path: Path):
    index = sharded(STATE, tmp_path)
    save_file({"other": torch.zeros(1)}, tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(UserError, match=r"is not in model-00002-of-00002.safetensors; copy the shards again"):
        load_weights(make(3), index)


def test_a_folder_of_several_files_is_refused(tmp_path: Path):
    for name in ("a.pth", "b.pth"):
        torch.save(STATE, tmp_path / name)
    with pytest.raises(UserError, match=r"holds 2 files of weights \(a.pth, b.pth\); name the one to load"):
        load_weights(make(3), tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_type_are_brought_to_float32_and_said(dtype: torch.dtype, tmp_path: Path):
    torch.manual_seed(0)
    saved_model, model, said = nn.Linear(3, 2).to(dtype), nn.Linear(3, 2), list[str]()
    torch.save(saved_model.state_dict(), tmp_path / "w.pt")
    watch = Silent()
    watch.note = said.append  # type: ignore[method-assign]
    load_weights(model, tmp_path / "w.pt", watch=watch)
    assert torch.equal(model.weight, saved_model.weight.float())
    assert said == [f"w.pt: brought {str(dtype).removeprefix('torch.')} to float32"]
