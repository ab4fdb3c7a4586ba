import sys
import types

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from distiq.errors import UserError
from distiq.models.build import build, check_output, cut, space_of_cuts
from distiq.models.checkpoint import load_weights
from distiq.models.create import Logits
from distiq.models.plain import PlainNet
from distiq.models.resnet import ResNet
from distiq.models.signature import OutputForm
from distiq.recipe.training import StudentSettings
from distiq.run.forecast import drawn

SHAPE = (1, 8, 8)
TINY = {"widths": [4, 8], "blocks": 1}


def make(model="resnet", options=None, classes=3, shape=SHAPE, **more):
    return build(
        StudentSettings(model=model, options=options or {}, **more), classes, torch.zeros(1, *shape), "student"
    )


def refusal(*args, **more) -> str:
    with pytest.raises(UserError) as caught:
        make(*args, **more)
    return str(caught.value)


@pytest.mark.parametrize(
    ("model", "options"),
    [("resnet", TINY), ("mobilenet_v2", {"stem": 8, "stages": [[1, 8, 1, 1]], "head": 0}), ("mobilenet_v2", {})],
)
def test_built_in(model, options):
    network = make(model, options)
    assert network.training
    assert network.eval()(torch.zeros(2, *SHAPE)).shape == (2, 3)


def test_an_unknown_name_is_refused_with_the_known():
    assert refusal("resnet50").startswith('student.model: "resnet50" is unknown; built in are resnet, mobilenet_v2,')
    assert '"keras" is no known library; take transformers:' in refusal("keras:resnet")


def test_an_unknown_option_is_refused_with_the_known():
    assert (
        refusal("resnet", {"width": 3})
        == 'student.model: resnet has no option "width"; it has widths, blocks, stem_stride'
    )
    assert 'has no option "classes"' in refusal("resnet", {"classes": 3})


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("resnet", {"blocks": [1]}),
        ("resnet", {"widths": "wide"}),
        ("resnet", {"widths": [-4, 8]}),
        ("resnet", {"blocks": "many"}),
        ("mobilenet_v2", {"activation": "gelu"}),
        ("mobilenet_v2", {"stages": [[1, 8]]}),
        ("mobilenet_v2", {"width": "0.5"}),
    ],
    ids=str,
)
def test_options_that_cannot_be_built_are_refused(model, options):
    assert refusal(model, options).startswith(f"student.model: {model} cannot be built with ")


def test_a_network_that_fails_on_the_data_is_refused():
    assert "student: the network fails on an input of shape (1, 8, 8)" in refusal("mobilenet_v2", {"stem_stride": 0})


FACTORY = """
from torch import nn

def net(classes, width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, classes))

def too_wide(classes):
    return net(classes + 1)

def no_net(classes):
    return "net"

def two_answers(classes):
    class Two(nn.Module):
        def forward(self, x):
            return x, x
    return Two()
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "nets.py").write_text(FACTORY)
    return tmp_path / "nets.py"


def test_a_network_of_ones_own(file):
    assert make(f"{file}:net", {"width": 6})[1].out_features == 6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("too_wide", "the network returns (1, 4) for one input, but the data has 3 classes"),
        ("two_answers", "the network gives output_0, output_1; the task reads one output"),
        ("no_net", "returned str; return an nn.Module"),
        ("none", "has no function"),
    ],
)
def test_a_network_that_does_not_fit_the_data_is_refused(file, name, message):
    assert message in refusal(f"{file}:{name}")


def test_classes_in_place_of_a_number_are_refused():
    with pytest.raises(UserError, match=r"returns \(1, 3\) .* but the data has a number each; .* both have one output"):
        check_output(ResNet(3, 1, [4], 1), OutputForm(1), torch.zeros(1, *SHAPE), "student")


@pytest.mark.parametrize("training", [True, False])
def test_the_trial_changes_nothing(training):
    torch.manual_seed(0)
    model = ResNet(3, 1, [4], 1).train(training)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    check_output(model, OutputForm(3), torch.zeros(1, *SHAPE), "student")
    assert model.training is training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet", {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}),
        ("mobilenet_v2", {"depth_multiplier": 0.1, "depth_divisible_by": 8, "min_depth": 8}),
        ("efficientnet", {"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128}),
    ],
)
def test_transformers(name, options):
    pytest.importorskip("transformers")
    network = make(f"transformers:{name}", options, shape=(3, 32, 32))
    assert isinstance(network, Logits)
    assert network.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_an_unknown_transformers_model_is_refused():
    pytest.importorskip("transformers")
    assert 'transformers cannot build "no_such_net"' in refusal("transformers:no_such_net")


def test_options_that_the_data_decide_are_refused():
    pytest.importorskip("transformers")
    said = refusal("transformers:vit", {"num_labels": 7})
    assert said.endswith("num_labels is 3 by the data; leave it out of the options")


def test_options_of_another_type_are_refused_in_one_line():
    pytest.importorskip("transformers")
    said = refusal("transformers:cvt", {"mlp_ratio": [2, 2, 2]})
    assert "mlp_ratio" in said
    assert "\n" not in said


def test_an_architecture_of_several_heads_gets_the_usual_one():
    pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    network = make("transformers:deit", {**small, "image_size": 32, "patch_size": 8}, shape=(3, 32, 32))
    assert network.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize("library", ["timm", "torchvision", "transformers"])
def test_a_missing_package_comes_with_the_line_that_installs_it(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)  # makes its import fail
    message = refusal(f"{library}:resnet18", shape=(3, 8, 8))
    assert message == f"student.model: needs the package {library}; install it with: pip install {library}"


def fake_timm(monkeypatch) -> list[dict]:
    asked = []

    def create_model(name, **settings):
        asked.append({"name": name, **settings})
        if name == "none":
            raise RuntimeError("Unknown model (none)")
        return ResNet(settings["num_classes"], settings["in_chans"], [4], 1)

    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(create_model=create_model))
    return asked


def test_timm_fetches_nothing_for_weights_of_ones_own(monkeypatch, tmp_path):
    asked = fake_timm(monkeypatch)
    torch.manual_seed(0)
    state = ResNet(3, 1, [4], 1).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    network = make("timm:tiny", weights=str(tmp_path / "w.safetensors"))
    assert asked == [{"name": "tiny", "pretrained": False, "num_classes": 3, "in_chans": 1}]
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    make("timm:tiny", weights="in1k")
    assert asked[1]["pretrained"] is True


def test_what_timm_cannot_build_is_explained(monkeypatch):
    fake_timm(monkeypatch)
    assert refusal("timm:none").startswith('student.model: timm cannot build "none" with {}: Unknown model')


# Weights ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def network():
    torch.manual_seed(1)
    return ResNet(3, 1, **TINY)


class Payload:
    """An arbitrary object: what a pickle may hold."""


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_weights_are_loaded(tmp_path, network, suffix):
    path = tmp_path / f"w{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(network.state_dict(), path)
    torch.manual_seed(2)
    loaded = make("resnet", TINY, weights=str(path))
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize("what", ["module", "state with an object"])
def test_a_file_that_can_run_code_must_be_trusted(tmp_path, network, what):
    path = tmp_path / "w.pt"
    torch.save(network if what == "module" else {"a": Payload()}, path)
    message = refusal("resnet", TINY, weights=str(path))
    assert "w.pt: cannot be loaded as weights alone" in message
    assert "trust = true: such a file can run code" in message
    if what == "module":
        loaded = make("resnet", TINY, weights=str(path), trust=True)
        assert torch.equal(loaded.classifier.weight, network.classifier.weight)
    else:
        assert "holds no plain state dict" in refusal("resnet", TINY, weights=str(path), trust=True)


def test_a_hostile_pickle_is_not_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save(Hostile(), tmp_path / "w.pt")
    assert "cannot be loaded as weights alone" in refusal("resnet", TINY, weights=str(tmp_path / "w.pt"))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("content", [b"", b"damaged" * 50, None], ids=["empty", "text", "cut"])
def test_damaged_weights_are_refused(tmp_path, network, suffix, content):
    path = tmp_path / f"w{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(network.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    assert refusal("resnet", TINY, weights=str(path)).startswith(f"{path}: ")


@pytest.mark.parametrize("name", ["none.safetensors", "none.pt", "none"])
def test_missing_weights_are_named(tmp_path, name):
    assert (
        refusal("resnet", TINY, weights=str(tmp_path / name))
        == f"{tmp_path / name}: no such file; weights are a .safetensors, .pt, .pth, .ckpt or .bin file, or a hub name"
    )


@pytest.mark.parametrize("other", [ResNet(3, 1, [4, 6], 1), ResNet(4, 1, [4, 8], 1), nn.Linear(2, 2)])
def test_weights_of_another_network_are_refused(tmp_path, network, other):
    path = tmp_path / "w.safetensors"
    save_file(other.state_dict(), path)
    with pytest.raises(UserError, match=r"w.safetensors: these weights do not fit the network"):
        load_weights(network, path)


def test_a_list_of_tensors_is_no_state_dict(tmp_path, network):
    torch.save([torch.zeros(2)], tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"holds no plain state dict; save model.state_dict\(\)"):
        load_weights(network, tmp_path / "w.pt")


def test_a_student_is_cut_to_a_share_of_channels_or_of_multiply_adds():
    def cut_by(options: dict[str, float]) -> nn.Module:
        choice = StudentSettings(model="plain", weights="teacher", options=options)
        return cut(PlainNet(3, 1, [[32, 2], [32, 1]]), choice, OutputForm(3), torch.zeros(1, *SHAPE), None)

    assert cut_by({"keep_channels": 0.5}).layers[1][0].weight.shape[:2] == (16, 16)
    assert cut_by({"keep_macs": 0.9}).layers[1][0].weight.shape[:2] in ((24, 32), (32, 24))
    with pytest.raises(UserError, match="keep_channels and keep_macs both say how much stays; give one"):
        cut_by({"keep_channels": 0.5, "keep_macs": 0.5})


def test_a_search_draws_shares_of_channels():
    pytest.importorskip("optuna", reason="optuna is not installed")
    teacher = PlainNet(3, 1, [[32, 2], [32, 1]])
    space = space_of_cuts(teacher, "plain", is_text=False)
    assert space is not None
    for model, options in drawn(space, 6, seed=0):
        choice = StudentSettings(model=model, weights="teacher", options=options)
        kept = cut(teacher, choice, OutputForm(3), torch.zeros(1, *SHAPE), None).layers[0][0].weight.shape[0]
        assert abs(kept - 32 * options["keep_channels"]) <= 8
    assert space_of_cuts(nn.Linear(3, 4), "mlp", is_text=False) is None


def test_vectors_are_as_wide_as_an_option_says():
    assert make("plain", {"outputs": 24}, classes=0).eval()(torch.zeros(2, *SHAPE)).shape == (2, 24)
    assert make("plain", classes=0).eval()(torch.zeros(2, *SHAPE)).shape == (2, 128)
    for width in (0, 2.5, "x"):
        with pytest.raises(UserError, match=f"outputs = {width}: give the width of the vectors"):
            make("plain", {"outputs": width}, classes=0)
    assert 'plain has no option "outputs"' in refusal("plain", {"outputs": 24})


@pytest.mark.parametrize(
    ("model", "form", "said"),
    [
        ("transformers:resnett", None, r'it has no architecture of that name; did you mean "resnet"\?'),
        ("transformers:yolos", None, "it has no AutoModelForImageClassification of this .*vit"),
        ("transformers:resnet", OutputForm(3, 2), "no AutoModelForSemanticSegmentation of this .*segformer"),
        ("transformers:yolos", OutputForm(7, 1, of_classes=3), r'take model = "detector", or one of your own'),
        ("timm:efficientdet", OutputForm(7, 1, of_classes=3), "gives no box for each position of a map"),
    ],
)  # fmt: skip
def test_an_architecture_that_a_library_lacks_is_refused_in_one_line(model: str, form: OutputForm | None, said: str):
    pytest.importorskip("transformers", reason="transformers is not installed")
    with pytest.raises(UserError, match=said) as caught:
        build(StudentSettings(model=model), 3, torch.zeros(1, 3, 32, 32), "student", form=form)
    assert "\n" not in str(caught.value)
