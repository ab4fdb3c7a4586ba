"""From a folder of images with masks, or boxes, to an int8 bundle that finds them where distiq is not installed."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from distiq.cli.main import app
from distiq.commands.compress import compress
from distiq.device.run import LEAST_SCORE
from distiq.recipe.read import load_recipe
from distiq.runtimes.web import lacks_browser
from tests.data.drawn_scenes import draw_boxes, draw_masks

RECIPE = """
name = "scenes"
[data]
source = "{kind}"
folder = "{kind}"
image_size = [48, 64]
validation = 6
calibration = 6
[views]
shift = 2
scale = 0.2
{mosaic}
[teacher]
model = "{model}"
options = {{encoder = "resnet", stem = 16, stages = [[24, 1, 2], [32, 1, 2], [48, 1, 2]], width = 32}}
training = {{epochs = 60, batch_size = 8, optimizer = "adamw", learning_rate = 0.01, ema_decay = 0.9}}
[student]
model = "{model}"
options = {{encoder = "resnet", stem = 8, stages = [[16, 1, 2], [24, 1, 2], [32, 1, 2]], width = 24}}
training = {{epochs = 60, batch_size = 8, optimizer = "adamw", learning_rate = 0.01, ema_decay = 0.9}}
[distil]
teacher = "live"
temperature = 1.0
task_weight = 1.0
kd_weight = 0.5
[quantize]
rungs = ["static"]
fall_back = false
[export]
web = {web}
[measure]
throughput_batch = 2
rounds = 1
seconds = 0.01
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "model"), [("masks", "segmenter"), ("boxes", "detector")])
def test_a_folder_becomes_a_bundle_that_finds_things(tmp_path: Path, on_device, kind: str, model: str):  # type: ignore[no-untyped-def]
    folder = (draw_masks if kind == "masks" else draw_boxes)(tmp_path / kind, 60, 16)
    path = tmp_path / "scenes.toml"
    views, web = "mosaic = 0.2" if kind == "boxes" else "crop = 0.7", "false" if lacks_browser() else "true"
    path.write_text(RECIPE.format(kind=kind, model=model, mosaic=views, web=web))
    run = compress(load_recipe(path), run=tmp_path / "run")
    teacher, deployed = run.teacher.column("float32").test, run.student.column("int8 deployed").test
    assert teacher.value > 0.5, teacher.in_words
    assert deployed.value > run.student.column("float32").test.value - 0.03, deployed.in_words
    trial = run.trials[0]
    assert trial.agreement > 0.99 and trial.runtimes[0].same_integers
    assert set(trial.sqnr_by_part) == ({"boxes", "scores"} if kind == "boxes" else set())
    assert run.scenes is not None and len(run.scenes.worst) <= 6
    assert all(not one.said.startswith("0 missed, 0 where nothing is, 0 of") for one in run.scenes.worst)
    if run.web is not None:
        assert run.web.replay.startswith("pass: 16 of 16 test vectors predict the same"), run.web.replay
        assert all(one.agreement > 0.99 for one in run.web.files)
    assert ("Worst images" in (tmp_path / "run" / "report.html").read_text()) == bool(run.scenes.worst)

    bundle, image = (
        tmp_path / "run" / "bundle",
        next((folder / ("test" if kind == "masks" else "images")).glob("*.png")),
    )
    said = CliRunner().invoke(app, ["predict", str(bundle), str(image), "--json", "--draw", str(tmp_path / "drawn")])
    found = json.loads(said.stdout)["predictions"][0]["found"]
    assert found and found[0]["label"] in run.data.classes and (tmp_path / "drawn" / image.name).is_file()
    if kind == "boxes":
        assert all(0 <= side <= 64 for thing in found for side in thing["box"]) and found[0]["score"] > LEAST_SCORE
    bare = on_device(bundle, image)
    assert bare.returncode == 0 and found[0]["label"] in bare.stdout, bare.stderr
    assert on_device(bundle).returncode == 0, "its test vectors"
