import re
import tomllib
from pathlib import Path

import pytest

from distiq.errors import UserError
from distiq.recipe.data import WITHOUT_FOLDER, AudioViewSettings, TextViewSettings
from distiq.recipe.quantize import QuantizeSettings
from distiq.recipe.read import load_recipe, parse_recipe
from distiq.recipe.recipe import Recipe, describe, to_toml
from distiq.recipe.training import TrainingSettings


def write(tmp_path: Path, text: str = "") -> Path:
    path = tmp_path / "my.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(write(tmp_path, text), overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("names", "message"),
    [("[]", "at least 1 item"), ('["openvino", "openvino"]', "names a runtime twice")],
)
def test_runtimes_that_cannot_be_are_refused(tmp_path, names, message):
    assert message in refusal(tmp_path, f"[measure]\nruntimes = {names}")


def test_lengths_of_texts_are_sorted_and_those_of_no_text_refused(tmp_path):
    assert parse_recipe({"measure": {"lengths": [64, 16, 64]}}).measure.lengths == (16, 64)
    assert "a text has 2 tokens at least" in refusal(tmp_path, "[measure]\nlengths = [1, 64]")


def test_a_download_without_a_place_is_refused(tmp_path):
    assert "data.download = true fetches into data.folder" in refusal(tmp_path, "[data]\ndownload = true")


def test_a_recipe_is_named_after_its_file():
    assert tomllib.loads(describe("my file"))["name"] == "my-file"


def test_an_empty_recipe_is_the_default(tmp_path):
    assert load_recipe(write(tmp_path)) == Recipe()


def test_describe_is_the_default_recipe_with_every_key():
    tree = tomllib.loads(describe())
    assert parse_recipe(tree) == Recipe()
    for name, part in Recipe():
        if name != "budget" and hasattr(part, "model_dump"):
            # Tables may follow, or nothing is set: the line is a comment.
            unset = {key for key, value in part.model_dump().items() if value in ((), None)}
            assert set(part.model_dump()) - unset == set(tree[name])
            assert all(f"# {key} = " in describe() for key in unset)
    for limit in ("drop", "size_kb", "latency_ms", "bit_operations_m"):
        assert f"# {limit} = " in describe()


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        parse_recipe(
            {
                "name": "a.b-c_1",
                "seed": 7,
                "student": {
                    "options": {"width": 0.5, "stages": [[1, 2], [3]], "relu": True, "t": 'a "b" \\ \n é \U0001f600'},
                    "weights": "ünïcode \x7f \U0001f600.pt",
                },
                "teacher": {"options": {"id2label": {"0": "t shirt", "a key": 1}}},
                "distil": {
                    "teacher": "live",
                    "losses": [
                        {"name": "hint_mse", "student": "a.0", "teacher": "b", "weight": 1e-5},
                        {"name": "fsp", "student": ["a", "b"], "teacher": ["c", "d"]},
                        {"name": "dkd", "options": {"beta": 2.0}},
                    ],
                },
                "quantize": {"rungs": ["qat"], "training": {"learning_rate": 1e-7}},
                "budget": {
                    "drop": 1.5, "metrics": {"auc": 0.5}, "size_kb": 100,
                    "recall": {"*": 5.0, "New York": 2.0, "Größe": 1.0, "a.b": 3.0},
                },
            }
        ),
    ],
    ids=["default", "full"],
)  # fmt: skip
def test_to_toml_reads_back_equal(recipe):
    assert parse_recipe(tomllib.loads(to_toml(recipe))) == recipe


def test_a_part_given_in_part_keeps_its_other_defaults():
    training = parse_recipe({"quantize": {"training": {"epochs": 5}}}).quantize.training
    assert training == QuantizeSettings().training.model_copy(update={"epochs": 5})
    assert training.precision == "float32"
    assert parse_recipe({"teacher": {"options": {}}}).teacher.model == "resnet"
    assert parse_recipe({"student": {"options": {}}}).student.model == "mobilenet_v2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[distil]\ntempreture = 3", 'distil.tempreture: unknown key; did you mean "temperature"?'),
        ("sed = 3", 'sed: unknown key; did you mean "seed"?'),
        ("[student.training]\nepoch = 3", 'student.training.epoch: unknown key; did you mean "epochs"?'),
        (
            "[measure]\nzzz = 3",
            "measure.zzz: unknown key; known here: runtimes, threads, throughput_batch, rounds, seconds, lengths, tune",
        ),
        (
            '[distil]\nteacher = "live"\nlosses = [{name = "hint_mse", student = "a", teacher = "b", wieght = 2}]',
            'distil.losses.0.wieght: unknown key; did you mean "weight"?',
        ),
        ("[distil]\nlosses = [{weight = 1.0}]", "distil.losses.0.name: this key is required"),
    ],
)
def test_a_key_that_is_unknown_or_missing_is_named(tmp_path, text, message):
    assert refusal(tmp_path, text) == f"{tmp_path / 'my.toml'}: {message}"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('seed = "3"', ["my.toml: seed: ", "integer", 'but found "3"']),
        ("seed = 1.5", ["seed: ", "integer", "but found 1.5"]),
        ("seed = true", ["seed: ", "integer", "but found true"]),
        ("seed = -1", ["seed: ", "greater than or equal to 0", "but found -1"]),
        ("[distil]\ntemperature = 0", ["distil.temperature: ", "greater than 0"]),
        ("[views]\ncrop = 1.2", ["views.crop: ", "less than or equal to 1"]),
        ('[distil]\nteacher = "cache"', ['distil.teacher: "cache" is none of its values; did you mean "cached"?']),
        ("[quantize]\nrungs = []", ["quantize.rungs: ", "at least 1"]),
        ("[data]\nchannels = 2", ["data.channels: ", "1 or 3"]),
        ("teacher = 3", ["teacher: ", "object", "but found 3"]),
        ('name = "a/b"', ["name: ", "pattern", 'but found "a/b"']),
    ],
)
def test_a_wrong_value_is_named(tmp_path, text, parts):
    message = refusal(tmp_path, text)
    for part in parts:
        assert part in message


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("key", ["distil.temperature", "budget.size_kb", "student.training.learning_rate"])
def test_numbers_must_be_finite(tmp_path, key, value):
    assert f"{key}: input should be a finite number" in refusal(tmp_path, "", f"{key}={value}")


PAIR = '[{name = "hint_mse", student = "a", teacher = "b"}]'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'teacher = "none"\nlosses = {PAIR}', 'losses need a teacher, but teacher = "none"'),
        (f'teacher = "cached"\nlosses = {PAIR}', 'hint_mse reads the teacher\'s layers, but teacher = "cached"'),
        ('losses = [{name = "dkd", student = "a"}]', "dkd compares outputs; leave student and teacher out"),
        (
            'losses = [{name = "rkd"}]',
            "as many of the teacher (here 0) as of the student (here 0), at least one",
        ),
        (
            'losses = [{name = "rkd", student = ["a", "b"], teacher = "c"}]',
            "as many of the teacher (here 1) as of the student (here 2)",
        ),
        ('losses = [{name = "fsp", student = "a", teacher = "b"}]', "name two or more"),
    ],
)
def test_losses_that_cannot_be_are_refused(tmp_path, text, message):
    assert message in refusal(tmp_path, f"[distil]\n{text}")


def test_layers_of_a_cached_teacher_may_be_stored():
    losses = [{"name": "rkd", "student": "pool", "teacher": ["pool"]}]
    settings = parse_recipe({"distil": {"losses": losses, "cache": {"features": True}}}).distil
    assert settings.teacher_paths == ["pool"]
    assert settings.losses[0].student == ("pool",)


def test_an_unknown_loss_names_the_known(tmp_path):
    message = refusal(tmp_path, '[distil]\nlosses = [{name = "hint"}]')
    assert '"hint" is none of its values; did you mean "hint_mse"?' in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[distil]\nteacher = "none"\n[[assistants]]\nmodel = "resnet"', "assistants need a teacher"),
        ('[[assistants]]\nweights = "hub/name"', "an assistant is trained here and takes no weights"),
        (
            f'[distil]\nteacher = "live"\nlosses = {PAIR}\n[[assistants]]\nmodel = "resnet"',
            "hint_mse names layers of one teacher and one student",
        ),
        ("[[assistants]]\nmodl = 3", 'assistants.0.modl: unknown key; did you mean "model"?'),
        ('[[assistants]]\nmodel = "gone.py:make"', "assistants.0.model: no such file"),
    ],
)
def test_assistants_that_cannot_be_are_refused(tmp_path, text, message):
    assert message in refusal(tmp_path, text)


def test_more_mixing_than_images_is_refused(tmp_path):
    assert "mixup + cutmix = 1.2 is more than every image" in refusal(tmp_path, "[views]\nmixup = 0.6\ncutmix = 0.6")


def test_a_teacher_has_views_of_its_own():
    views = {"distinct": 4, "shift": 1, "text": {"replace": 0.3}, "audio": {"noise": 0.5, "shift": 0.2}}
    own = {"mixup": 0.5, "audio": {"noise": 0.1}}
    recipe = Recipe.model_validate({"views": views, "teacher": {"views": own}})
    kept = recipe.views.model_copy(update={"distinct": 0, "mixup": 0.5, "text": TextViewSettings()})
    assert recipe.teacher_views == kept.model_copy(update={"audio": AudioViewSettings(noise=0.1, shift=0.2)})
    assert Recipe.model_validate({"teacher": {"views": {"text": {"replace": 0.3}}}}).teacher_views.text.replace == 0.3


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        ("views = {mixup = 2}", "teacher.views.mixup: input should be less than or equal to 1, but found 2"),
        ("views = {mix = 1}", 'teacher.views.mix: unknown key; did you mean "mixup"?'),
        ("views = {audio = {hiss = 1}}", "teacher.views.audio.hiss: "),
        ("views = {mixup = 0.6, cutmix = 0.6}", "mixup + cutmix = 1.2 is more than every image"),
        ('model = "net.onnx"\nviews = {shift = 1}', "teacher.views is for a teacher that is trained here"),
    ],
)
def test_views_that_a_teacher_cannot_have_are_refused(tmp_path, teacher, said):
    (tmp_path / "net.onnx").touch()
    assert said in refusal(tmp_path, f"[teacher]\n{teacher}")


def test_something_must_be_learned(tmp_path):
    assert "all loss weights are zero" in refusal(tmp_path, "[distil]\ntask_weight = 0\nkd_weight = 0")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('model = "mobilenet_v2"', 'their models differ: "mobilenet_v2" and "resnet"; name the same'),
        ('model = "resnet"\n[teacher]\npredict = "a.py:f"', "teacher.predict is a callable"),
    ],
)
def test_a_student_that_cannot_be_cut_is_refused(tmp_path, text, message):
    assert message in refusal(tmp_path, f'[student]\nweights = "teacher"\n{text}')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('mode = "dynamic"\ngroup_size = 32', 'nearest: mode = "weight_only", or group_size = 0'),
        ('mode = "weight_only"\ngroup_size = 32', "nearest: weight_bits = 4, or group_size = 0"),
        ('mode = "weight_only"\nactivation_bits = 16', "nearest: leave activation_bits out"),
        ('mode = "dynamic"\nlearn_ranges = true', 'nearest: mode = "static", or leave learn_ranges out'),
    ],
)
def test_a_scheme_that_cannot_be_is_refused_with_the_nearest(tmp_path, text, message):
    assert message in refusal(tmp_path, f"[quantize]\n{text}")


def test_quantized_networks_have_no_new_weights(tmp_path):
    assert "quantize.training: pretrained_rate = 0.1: quantization-aware training starts from" in refusal(
        tmp_path, "[quantize.training]\npretrained_rate = 0.1"
    )


def test_rungs_differ(tmp_path):
    assert "names a rung twice" in refusal(tmp_path, '[quantize]\nrungs = ["minmax", "qat", "minmax"]')


def test_attention_in_int8_that_nothing_calibrates_is_refused(tmp_path: Path):
    text = refusal(tmp_path, '[quantize]\nattention = true\nmode = "dynamic"')
    assert 'quantize: attention = true, but mode = "dynamic" has no calibrated ranges' in text
    assert load_recipe(write(tmp_path, "[quantize]\nattention = true")).quantize.attention


def test_a_reduced_range_that_changes_nothing_is_refused(tmp_path: Path):
    text = refusal(tmp_path, "[quantize]\nreduce_range = true\nweight_bits = 4")
    assert "quantize: reduce_range = true changes nothing at weight_bits = 4" in text
    assert 'quantize.reduced_range: unknown key; did you mean "reduce_range"?' in refusal(
        tmp_path, "[quantize]\nreduced_range = true"
    )
    assert load_recipe(write(tmp_path, "[quantize]\nreduce_range = true")).quantize.reduce_range


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "auto"])
def test_quantized_networks_are_trained_in_float32(tmp_path, precision):
    message = refusal(tmp_path, f'[quantize.training]\nprecision = "{precision}"')
    assert (
        f'training.precision = "{precision}" cannot hold 8-bit integers and their scales exactly; take "float32"'
        in message
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[data]\nsource = "text"\nfolder = "."\n[data.text]\nhub = "a/b"', 'folder = "." are two places'),
        ('[data.text]\nhub = "a/b"', 'source = "fashion_mnist" are two places'),
        ('[data.text]\nhub = "a/b"\nheader = ["text"]', "header names the columns of files"),
        ('[data.text]\nsubset = "sst2"', "is of a hub's data set; name that in hub"),
    ],
)
def test_a_hub_s_texts_stand_alone(tmp_path, text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        load_recipe(write(tmp_path, text))


@pytest.mark.parametrize("other", ['labels = ["fun", "long"]', 'separator = ","', 'names = ["bad", "good"]'])
def test_a_number_has_no_classes(tmp_path, other):
    message = refusal(tmp_path, f'[data.text]\ntarget = "stars"\n{other}')
    assert f'data.text: target = "stars" is the column of a number, {other.split(" ")[0]} is for classes' in message
    assert load_recipe(write(tmp_path, '[data.text]\ntarget = "stars"')).data.text.target == "stars"


def test_several_mistakes_are_told_at_once(tmp_path):
    lines = refusal(tmp_path, 'seed = "x"\n[distil]\ntempreture = 3\n[budget]\nsize_kb = -1').splitlines()
    assert len(lines) == 3
    assert {line.split(": ")[1] for line in lines} == {"seed", "distil.tempreture", "budget.size_kb"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[teacher]\nweights = "no.safetensors"', "teacher.weights: no such file: "),
        ('[student]\nweights = "no.pt"', "student.weights: no such file: "),
        ('[data]\nfolder = "none"', "data.folder: no such folder: "),
        ('[data]\nsource = "folder"', 'data.folder: source = "folder" needs a folder'),
        ('[data]\nsource = "none.py:load"', "data.source: no such file: "),
        ('[teacher]\nmodel = "none.py:f"', "teacher.model: no such file: "),
        ('[student]\nmodel = "none.py:f"', "student.model: no such file: "),
        ('[student]\nmodel = "none.onnx"', "student.model: no such file: "),
    ],
)
def test_a_missing_file_is_named(tmp_path, text, message):
    assert f"my.toml: {message}" in refusal(tmp_path, text)


def test_a_folder_that_is_to_be_downloaded_may_be_missing(tmp_path):
    recipe = load_recipe(write(tmp_path, '[data]\nfolder = "later"\ndownload = true'))
    assert recipe.data.folder == str(tmp_path / "later")


def test_paths_are_taken_from_the_recipes_folder(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    (tmp_path / "net.py").write_text("")
    (tmp_path / "w.pt").write_text("")
    recipe = load_recipe(write(tmp_path, '[teacher]\nmodel = "net.py:make"\nweights = "w.pt"'))
    assert recipe.teacher.model == f"{tmp_path / 'net.py'}:make"
    assert recipe.teacher.weights == str(tmp_path / "w.pt")
    assert (recipe.student.model, recipe.student.weights, recipe.data.folder) == ("mobilenet_v2", "", "")


def test_an_onnx_file_is_a_network_with_weights(tmp_path):
    (tmp_path / "net.onnx").write_text("")
    recipe = load_recipe(write(tmp_path, '[teacher]\nmodel = "net.onnx"\nfinetune = true'))
    assert (recipe.teacher.model, recipe.teacher.finetune) == (str(tmp_path / "net.onnx"), True)


def test_a_hub_name_stays_as_it_is(tmp_path):
    text = '[teacher]\nmodel = "transformers:resnet"\nweights = "microsoft/resnet-18"'
    assert load_recipe(write(tmp_path, text)).teacher.weights == "microsoft/resnet-18"


def test_overrides(tmp_path):
    recipe = load_recipe(
        write(tmp_path, "seed = 1\n[student.training]\nepochs = 9"),
        [
            "seed=2",
            "name=plain-text",
            'distil.teacher="none"',
            "student.training.epochs=3",
            "student.options.width=0.5",
            'quantize.rungs=["minmax"]',
            " budget.size_kb = 50",
        ],
    )
    assert (recipe.seed, recipe.name, recipe.distil.teacher) == (2, "plain-text", "none")
    assert recipe.student.training == TrainingSettings(epochs=3)
    assert recipe.student.options == {"width": 0.5}
    assert recipe.quantize.rungs == ("minmax",)
    assert recipe.budget.size_kb == 50


@pytest.mark.parametrize("override", ["seed", "=3", " = 3"])
def test_an_override_without_key_or_value_is_refused(tmp_path, override):
    assert f"--set {override}: write it as key=value" in refusal(tmp_path, "", override)


def test_an_override_below_a_value_is_refused(tmp_path):
    message = refusal(tmp_path, "seed = 3", "seed.more=4")
    assert message == "--set seed.more=4: seed is a value, not a table"


def test_an_override_is_checked_like_the_file(tmp_path):
    assert 'distil.tempreture: unknown key; did you mean "temperature"?' in refusal(tmp_path, "", "distil.tempreture=3")
    assert 'seed: input should be a valid integer, but found "many"' in refusal(tmp_path, "", "seed=many")


def test_a_missing_recipe_is_explained(tmp_path):
    with pytest.raises(UserError, match=r"none.toml: no such recipe; .*`distiq init` writes one"):
        load_recipe(tmp_path / "none.toml")


@pytest.mark.parametrize("content", [b"seed = ", b"seed = 1\nseed = 2", b"\xff\xfe"])
def test_what_is_no_toml_is_explained(tmp_path, content):
    (tmp_path / "bad.toml").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'bad.toml'}: not valid TOML: ")):
        load_recipe(tmp_path / "bad.toml")


def test_parts_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Recipe().seed = 3


def test_tables_can_be_added_to_what_init_writes(tmp_path):
    more = '[[distil.losses]]\nname = "dist"\n[[assistants]]\nmodel = "resnet"\n'
    path = tmp_path / "my.toml"
    path.write_text(describe() + "\n" + more)
    recipe = load_recipe(path)
    assert [loss.name for loss in recipe.distil.losses] == ["dist"]
    assert len(recipe.assistants) == 1


def test_quantization_aware_training_has_something_to_learn():
    pair = {"name": "feature_mse", "student": "a", "teacher": "b"}
    settings = parse_recipe({"distil": {"teacher": "live", "task_weight": 0.0, "kd_weight": 0.0, "losses": [pair]}})
    assert [loss.name for loss in settings.distil.for_qat().output_losses] == ["kd"]
    assert not settings.distil.for_qat().losses
    plain = parse_recipe({}).distil
    assert plain.for_qat() == plain


def test_logits_are_compared_as_they_are_stored(tmp_path):
    text = '[distil]\nlosses = [{name = "logit_mse"}]\n[distil.cache]\nstorage = "quantized"'
    assert 'cache.storage = "quantized" keeps them only up to a shift' in refusal(tmp_path, text)


def test_dkd_and_mixed_images_are_refused(tmp_path):
    text = '[views]\nmixup = 0.5\n[distil]\nlosses = [{name = "dkd"}]'
    assert "dkd needs one label per image" in refusal(tmp_path, text)


@pytest.mark.parametrize("prefix", ["", "transformers:"])
def test_a_folder_of_transformers_as_a_model_is_refused_with_the_spelling(prefix: str, tmp_path):
    (tmp_path / "minilm").mkdir()
    (tmp_path / "minilm" / "config.json").write_text('{"model_type": "bert"}')
    path = tmp_path / "recipe.toml"
    path.write_text(f'[teacher]\nmodel = "{prefix}minilm"\n')
    with pytest.raises(UserError, match=r'is a folder of transformers; write model = "transformers:bert" and weights'):
        load_recipe(path)
    (tmp_path / "minilm").rename(tmp_path / "bert")
    path.write_text('[teacher]\nmodel = "transformers:bert"\nweights = "bert"\n')
    assert load_recipe(path).teacher.weights == str(tmp_path / "bert")


# Local paths and hub names ------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path):
    (tmp_path / "models" / "bert-tiny").mkdir(parents=True)
    (tmp_path / "minilm-int8").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pytorch_model.bin", "no such file: "),
        ("models/bert-tni", 'did you mean "bert-tiny"?'),
        ("modles/bert-tiny", 'did you mean "models"?'),
        ("models/a/b", "no such file or folder: "),
        ("./bert", "no such file or folder: "),
        ("../bert", "no such file or folder: "),
        ("~/bert", "no such file or folder: "),
        ("bert/", "no such file or folder: "),
        ("my bert", "no such file or folder: "),
        ("minilm-int", 'did you mean "minilm-int8"?'),
    ],
)
@pytest.mark.parametrize("key", ["teacher.weights", "student.weights", "data.text.tokenizer", "data.text.hub"])
def test_a_mistyped_path_is_a_path_and_no_hub_s(place, key, name, said):
    text = f'data.source = "text"\n{key} = "{name}"\n' + ("" if key == "data.text.hub" else 'data.folder = "."\n')
    message = refusal(place, text)
    assert f"{key}: no such file" in message and said in message
    assert str(place) in message and "relative to the recipe's folder" in message


@pytest.mark.parametrize("name", ["bert-base-uncased", "prajjwal1/bert-tiny", "Qwen/Qwen2.5-0.5B", "IMAGENET1K_V1"])
def test_a_hub_s_name_stays_one(place, name):
    assert load_recipe(write(place, f'teacher.weights = "{name}"')).teacher.weights == name


def test_paths_that_exist_are_taken_from_the_recipe_s_folder(place, monkeypatch):
    (place / "pytorch_model.bin").write_bytes(b"")
    monkeypatch.chdir(place.parent)
    recipe = load_recipe(write(place, 'teacher.weights = "pytorch_model.bin"\nstudent.weights = "models/bert-tiny"'))
    assert recipe.teacher.weights == str(place / "pytorch_model.bin")
    assert recipe.student.weights == str(place / "models" / "bert-tiny")


# What is hardly a recipe --------------------------------------------------------------------------------------------


def test_the_mark_before_the_first_byte_is_no_part_of_it(tmp_path):
    (tmp_path / "my.toml").write_bytes('\ufeffname = "é"'.encode().replace("é".encode(), b"e"))
    assert load_recipe(tmp_path / "my.toml").name == "e"


@pytest.mark.parametrize("name", [".", "..", "..."])
def test_a_name_of_dots_is_no_folder_of_its_own(tmp_path, name):
    assert "is no folder below runs/; give the run a name" in refusal(tmp_path, f'name = "{name}"')


def test_many_mistakes_are_told_in_twenty_lines(tmp_path):
    message = refusal(tmp_path, "\n".join(f"key{number} = 1" for number in range(50)))
    assert len(message.splitlines()) == 20
    assert message.endswith("... and 31 more lines")


def test_a_long_value_is_cut(tmp_path):
    assert len(refusal(tmp_path, f'seed = "{"x" * 100_000}"')) < 3000


def test_control_characters_of_a_file_reach_no_terminal(tmp_path):
    message = refusal(tmp_path, r'''quantize.mode = "a\u001b[2J\u0007\u202eb"''')
    assert '"ab"' in message


def test_the_code_that_a_recipe_runs_is_named():
    recipe = Recipe(
        data={"source": "d.py:data"},
        teacher={"model": "n.py:net", "weights": "w.pt", "trust": True},
        student={"model": "n.py:net", "weights": "v.pt"},
    )
    assert recipe.code() == ("d.py:data", "n.py:net", "w.pt")
    assert Recipe(teacher={"predict": "p.py:f"}).code() == ("p.py:f",)
    assert Recipe().code() == ()


@pytest.mark.parametrize("source", WITHOUT_FOLDER)
def test_a_packaged_set_that_would_not_read_a_folder_says_so(source: str, tmp_path: Path):
    message = refusal(tmp_path, f'data = {{source = "{source}", folder = "mine"}}')
    assert WITHOUT_FOLDER[source] in message and '"mine"' in message


@pytest.mark.parametrize("key", ["unlabelled", "further"])
def test_places_of_more_samples_are_the_recipe_s_and_must_be_there(key: str, tmp_path: Path):
    text = f'data = {{source = "audio", folder = ".", {key} = "more"}}'
    assert f"data.{key}: nothing at {tmp_path / 'more'}" in refusal(tmp_path, text)
    (tmp_path / "more").mkdir()
    assert getattr(load_recipe(write(tmp_path, text)).data, key) == str(tmp_path / "more")


def test_further_samples_are_clips(tmp_path: Path):
    message = refusal(tmp_path, 'data = {source = "folder", folder = ".", further = "more"}')
    assert 'further = "more" is for source = "audio" and "transcripts"; of "folder" leave it out' in message
