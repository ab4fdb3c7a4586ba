"""From a folder of WAV files to a bundle that hears: one run on tones and hisses, shared by this file's tests."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file
from scipy.io import wavfile
from typer.testing import CliRunner

from distiq.bundle.open import Bundle
from distiq.cli.main import app
from distiq.data.sound import read_sound
from distiq.device import run as runner
from distiq.errors import UserError
from distiq.records.run import RunRecord

RATE, SECONDS = 4000, 0.25
RECIPE = """
name = "tones"
[data]
source = "audio"
folder = "{folder}"
validation = 12
calibration = 24
[data.audio]
rate = 4000
seconds = 0.25
[views]
distinct = 2
[views.audio]
speed = 0.1
[teacher]
model = "audio_resnet"
options = {{rate = 4000, bands = 16, widths = [8]}}
[teacher.training]
epochs = 6
batch_size = 8
precision = "float32"
[student]
model = "ds_cnn"
options = {{rate = 4000, bands = 16, stem = 8, widths = [8], strides = [1]}}
[student.training]
epochs = 6
batch_size = 8
precision = "float32"
[quantize]
rungs = ["static"]
[budget]
drop = 50.0
size_kb = 16
[measure]
throughput_batch = 2
rounds = 1
seconds = 0.005
[evaluation]
keyword = "tone"
false_accepts = 0.1
"""


def tone(hertz: float, seconds: float = SECONDS, rate: int = RATE) -> np.ndarray:
    return (12000 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.int16)


def hiss(seed: int, seconds: float = SECONDS, rate: int = RATE) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(-9000, 9000, round(seconds * rate))
    return noise.astype(np.int16)


def distiq(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("tones")
    for part, count in (("train", 40), ("test", 15)):
        for name in ("hiss", "tone"):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                sound = tone(300 + 30 * number) if name == "tone" else hiss(number)
                wavfile.write(folder / part / name / f"{number:02d}.wav", RATE, sound)
    (folder / "tones.toml").write_text(RECIPE.format(folder=folder))
    result = distiq("run", folder / "tones.toml", "--run", folder / "run", "--plain")
    assert result.exit_code in (0, 3), result.output
    return folder / "run"


@pytest.fixture(scope="module")
def record(run: Path) -> RunRecord:
    return RunRecord.load(run / "records" / "run.json")


@pytest.fixture(scope="module")
def bundle(run: Path) -> Bundle:
    return Bundle(run / "bundle")


def test_the_front_end_stays_in_float_by_measurement_and_the_rest_is_int8(record: RunRecord):
    decided, (trial,) = record.float_modules, record.trials
    assert decided is not None and decided.kept and decided.paths == ("frontend",)
    assert decided.sqnr_db_float > decided.sqnr_db_int8 + 3
    assert trial.float_operations == ()
    assert any(name.startswith("frontend/conv") for name in trial.intended_float_operations)
    assert trial.agreement == 1.0


def test_tones_are_told_from_hisses(record: RunRecord):
    assert record.trials[0].deployed.test.value >= 0.9
    assert (record.data.modality, record.data.rate, record.data.sample_shape) == ("audio", RATE, (1000,))


def test_errors_of_the_keyword_are_recorded_for_every_column(record: RunRecord, run: Path):
    trial = record.trials[0]
    columns = [record.teacher.column("float32"), record.student.column("float32"), trial.simulated, trial.deployed]
    for column in columns:
        found = column.test.keyword
        assert found is not None and (found.keyword, found.samples, found.others) == ("tone", 15, 15)
        assert 0 <= found.equal_error_rate <= 0.5 and found.allowed_false_accepts == 0.1
    page, shown = (run / "report.html").read_text(), distiq("show", run).output
    assert "False rejects against false accepts" in page and "at 10.0 % false accepts" in page
    assert "Equal error rate" in shown and "Missed" in shown


def test_the_report_speaks_of_clips(run: Path):
    text = (run / "report.html").read_text()
    assert "validation clips" in text and "1,000" not in text and "4,000 Hz" in text
    words = text.replace("data:image/png", "").replace("image_png", "").partition("<details>")[0]
    assert " image" not in words.partition("</style>")[2]
    shown = distiq("show", run).output
    assert "one clip" in shown and "image" not in shown


def test_the_preprocessing_says_rate_and_window(run: Path):
    found = json.loads((run / "bundle" / "preprocessing.json").read_text())
    assert (found["modality"], found["rate"], found["shape"], found["divide_by"]) == ("audio", RATE, [1000], 32768)
    vectors = load_file(run / "bundle" / "vectors.safetensors")
    assert torch.equal(vectors["samples"].float() / 32768, vectors["inputs"])
    assert "distiq predict . clip.wav" in (run / "bundle" / "README.md").read_text()


def test_check_passes_where_it_was_made(run: Path):
    assert distiq("check", run / "bundle").output.startswith("pass")


def test_the_runner_checks_and_answers_as_distiq_does(run: Path, capsys: pytest.CaptureFixture[str]):
    clip = run.parent / "test" / "tone" / "03.wav"
    assert runner.main([], run / "bundle") == 0
    assert "pass: preparation, largest difference 0 " in capsys.readouterr().out
    assert runner.main([str(clip)], run / "bundle") == 0
    assert capsys.readouterr().out == distiq("predict", run / "bundle", clip).stdout


@pytest.mark.parametrize("name", ["hiss", "tone"])
def test_predict_answers_a_clip(name: str, run: Path):
    path = run.parent / "test" / name / "03.wav"
    result = distiq("predict", run / "bundle", path)
    assert result.output.startswith(f"{path}: {name} ")
    assert len(result.output.splitlines()) == 1, "nothing had to be changed, so nothing is said"


def test_predict_says_what_it_did_to_a_clip(run: Path, tmp_path: Path):
    stereo = np.stack([tone(300, 0.1, 16000)] * 2, 1)
    wavfile.write(tmp_path / "a.wav", 16000, stereo)
    result = distiq("predict", run / "bundle", tmp_path / "a.wav")
    assert result.stderr.splitlines() == [
        "resampled from 16000 to 4000 Hz",
        "2 channels averaged to one",
        "0.10 s long: silence around it fills the window",
    ]
    assert result.stdout.startswith(f"{tmp_path / 'a.wav'}: ")


def test_a_long_clip_is_answered_window_by_window(run: Path, bundle: Bundle, tmp_path: Path):
    song = np.concatenate([tone(300, 0.5), hiss(99, 0.5), tone(700, 0.3)])
    wavfile.write(tmp_path / "song.wav", RATE, song)
    heard = list(bundle.listen(tmp_path / "song.wav", 0.25))
    assert [window.start_s for window in heard] == [0, 0.25, 0.5, 0.75, 1.0, 1.25]
    assert [window.classes[0].label for window in heard[:5]] == ["tone", "tone", "hiss", "hiss", "tone"]
    output = distiq("predict", run / "bundle", tmp_path / "song.wav", "--every", 0.25).output
    assert output.splitlines()[2].startswith(f"{tmp_path / 'song.wav'}, 0.50 to 0.75 s: hiss ")
    lines = distiq("predict", run / "bundle", tmp_path / "song.wav").output
    assert "1.30 s long: only the middle 0.25 s are heard" in lines


def test_a_window_is_the_clip_that_begins_there(bundle: Bundle, tmp_path: Path):
    song = np.concatenate([tone(300), hiss(99)])
    wavfile.write(tmp_path / "song.wav", RATE, song)
    wavfile.write(tmp_path / "second.wav", RATE, song[1000:])
    assert list(bundle.listen(tmp_path / "song.wav", 0.25))[1].classes == bundle.predict(tmp_path / "second.wav")


def test_a_stream_answers_the_windows_of_a_file_and_of_the_standard_input(run: Path, bundle: Bundle, tmp_path: Path):
    song = np.concatenate([tone(300, 0.5), hiss(99, 0.5)])
    wavfile.write(tmp_path / "song.wav", RATE, song)
    result = distiq("predict", run / "bundle", tmp_path / "song.wav", "--stream", "--smooth", 1, "--every", 0.128)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert ", 0.00 to 0.25 s: tone" in lines[0] and ", 0.64 to 0.89 s: hiss" in lines[5]
    command = ["predict", str(run / "bundle"), "-", "--stream", "--smooth", "1", "--every", "0.128"]
    piped = CliRunner().invoke(app, command, input=song.tobytes())
    assert [line.partition(", ")[2] for line in piped.output.splitlines()] == [
        line.partition(", ")[2] for line in lines
    ]
    refused = distiq("predict", run / "bundle", tmp_path / "song.wav", "--stream", "--every", 0.5)
    assert refused.exit_code == 2 and "at most a window, 0.25 s" in refused.stderr


def test_a_stream_that_ends_before_its_first_window_is_refused(run: Path, tmp_path: Path):
    wavfile.write(tmp_path / "short.wav", RATE, tone(300, 0.1))
    result = distiq("predict", run / "bundle", tmp_path / "short.wav", "--stream")
    assert result.exit_code == 2
    assert "short.wav: the sound ends after 0.10 s, before the first window of 0.25 s is full" in result.stderr
    piped = CliRunner().invoke(app, ["predict", str(run / "bundle"), "-", "--stream"], input=b"")
    assert piped.exit_code == 2 and "-: the sound ends after 0.00 s" in piped.stderr


@pytest.mark.parametrize("how", [("--stream",), ("--every", "0.25")])
def test_windows_of_another_rate_and_of_stereo_are_said(how: tuple[str, ...], run: Path, tmp_path: Path):
    wavfile.write(tmp_path / "a.wav", 16000, np.stack([tone(300, 0.5, 16000)] * 2, 1))
    result = distiq("predict", run / "bundle", tmp_path / "a.wav", *how)
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines() == ["resampled from 16000 to 4000 Hz", "2 channels averaged to one"]


@pytest.mark.parametrize("every", [0.0, -1.0, float("nan"), float("inf")])
def test_a_step_that_is_not_positive_is_refused(every: float, bundle: Bundle, run: Path):
    with pytest.raises(UserError, match="give a positive time"):
        list(bundle.listen(run.parent / "test" / "tone" / "00.wav", every))


@pytest.mark.parametrize(("content", "said"), [(b"", "is empty"), (b"RIFF", "does not decode"), (None, "no such file")])
def test_a_bad_clip_is_refused(content: bytes | None, said: str, run: Path, tmp_path: Path):
    if content is not None:
        (tmp_path / "bad.wav").write_bytes(content)
    result = distiq("predict", run / "bundle", tmp_path / "bad.wav")
    assert result.exit_code == 2
    assert said in result.stderr and "bad.wav" in result.stderr


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "options = {rate = 4000, bands = 16, stem",
            "options = {bands = 16, stem",
            "made for 16000 Hz, the clips have",
        ),
        ('name = "tones"', 'name = "tones"\n[quantize]\nfloat_modules = ["front"]', 'has no "front" that computes'),
        ("distinct = 2", "distinct = 2\nmixup = 0.5", "blend images, but the data are clips"),
        ('source = "audio"', 'source = "sound"', '"spoken_digits", "audio",'),
        ("seconds = 0.25", "seconds = 0.02", "fails on an input of shape (80,)"),
        ("rate = 4000\nseconds", "rates = 4000\nseconds", 'did you mean "rate"?'),
        ('keyword = "tone"', 'keyword = "tune"', 'no class is called "tune"; the classes: hiss, tone'),
        ("seconds = 0.25", 'seconds = 0.25\nheld_out = ["ann"]', "does not say who speaks"),
    ],
)
def test_what_cannot_work_is_refused_before_training(old: str, new: str, said: str, run: Path, tmp_path: Path):
    text = RECIPE.format(folder=run.parent)
    assert old in text
    text = text.replace(old, new)
    if "float_modules" in new:
        text = text.replace('[quantize]\nrungs = ["static"]\n', "")
    (tmp_path / "bad.toml").write_text(text)
    result = distiq("run", tmp_path / "bad.toml", "--run", tmp_path / "run", "--plain")
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert not list((tmp_path / "run").glob("steps/*"))


def test_the_files_of_the_folder_are_what_was_measured(run: Path, bundle: Bundle, record: RunRecord):
    right = 0
    for name in ("hiss", "tone"):
        for path in sorted((run.parent / "test" / name).iterdir()):
            assert read_sound(path).rate == RATE
            right += bundle.predict(path, 1)[0].label == name
    quality = record.trials[0].deployed.test
    assert right == quality.value * quality.samples
