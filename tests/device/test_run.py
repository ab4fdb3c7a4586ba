"""The file that goes to the device: it reads, prepares, runs and judges as distiq does, with numpy alone."""

import ast
import importlib.util
import json
import re
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from distiq.data import audio
from distiq.data.columns import read_columns
from distiq.data.tables import Encoding
from distiq.data.text import Text
from distiq.data.tokenizer import TextEncoder, bitmap, train_tokenizer
from distiq.device import run as runner
from distiq.quantization.quantize import quantize
from distiq.records.speed import BenchRecord
from distiq.runtimes.export import RUNTIMES, checksums, export, load
from distiq.runtimes.inductor import INDUCTOR
from distiq.runtimes.runtime import Runtime

IMAGES = {"modality": "image", "decoding": "softmax",
          "shape": [3, 4, 6], "divide_by": 255, "mean": [0.5, 0.25, 0.1], "std": [0.2, 0.1, 0.4],
          "labels": ["a", "b", "c"]}  # fmt: skip
SOUND = {"modality": "audio", "shape": [8], "rate": 4000, "divide_by": 32768, "labels": ["a", "b"]}
ROWS = {"modality": "table", "shape": [5], "labels": ["a", "b"]}
TEXTS = {"modality": "text", "shape": [12], "labels": ["a", "b"]}
FIXED = TEXTS | {"fixed_length": 12}


def test_it_is_python_3_9():
    ast.parse(Path(runner.__file__).read_text(encoding="utf-8"), feature_version=(3, 9))


@pytest.mark.parametrize("runtime", [one for one in RUNTIMES if one is not INDUCTOR], ids=lambda one: one.name)
def test_a_file_answers_as_in_distiq(runtime: Runtime, tmp_path: Path):  # runtimes/test_inductor.py has that one
    if any(importlib.util.find_spec(package) is None for package in runtime.packages):
        pytest.skip(f"{runtime.title} is not installed")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    inputs = torch.randn(40, 1, 12, 12)
    path = export(quantize(network.eval(), inputs), tmp_path / f"model{runtime.suffix}", inputs[:2])
    here, there = runner.load(path, 1), load(path, 1)
    for size in (1, 3, 40, 3):
        assert np.array_equal(here(inputs[:size].numpy()), there(inputs[:size]).numpy())


def test_every_runtime_of_distiq_is_known():
    assert {ending: title for ending, (title, _) in runner.RUNTIMES.items()} == {
        runtime.suffix: runtime.title for runtime in RUNTIMES
    }


@pytest.mark.parametrize("content", [b"no model", b""])
def test_a_file_that_its_runtime_does_not_load_is_refused(content: bytes, tmp_path: Path):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(runner.Refused, match=r"model\.onnx: ONNX Runtime 1\.\S+ cannot load this file"):
        runner.load(tmp_path / "model.onnx", 1)


def test_tensors_are_read_as_safetensors_wrote_them(tmp_path: Path):
    wanted = {
        "f": torch.randn(2, 3), "l": torch.arange(5), "u": torch.arange(6, dtype=torch.uint8).view(1, 2, 3),
        "s": torch.tensor([-3, 7], dtype=torch.int16), "empty": torch.zeros(0, 4),
    }  # fmt: skip
    save_file(wanted, tmp_path / "t.safetensors", {"made": "here"})
    found = runner.read_tensors(tmp_path / "t.safetensors")
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.numpy().dtype
        assert np.array_equal(found[name], tensor.numpy())


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"sha256": 3}', '{"sha256": {}, "model": "model.onnx"}'])
def test_a_folder_without_a_whole_card_is_refused(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    if content is not None:
        (tmp_path / "card.json").write_text(content)
    assert runner.main([], tmp_path) == 2
    assert re.search(r"card\.json: .*copy the whole bundle again", capsys.readouterr().err)


# Samples --------------------------------------------------------------------------------------------------------------


def saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def test_pixels_are_divided_and_normalized(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 6), dtype=np.uint8)
    found = runner.read_sample(saved(tmp_path / "one.npy", pixels), IMAGES)
    assert (found.shape, found.dtype) == ((1, 3, 4, 6), np.float32)
    assert found[0, 1, 2, 3] == pytest.approx((pixels[1, 2, 3] / 255 - 0.25) / 0.1, rel=1e-5)
    several = runner.read_sample(saved(tmp_path / "two.npy", np.stack([pixels, pixels])), IMAGES)
    assert np.array_equal(several, np.concatenate([found, found]))


def test_floats_are_taken_as_they_are(tmp_path: Path):
    for about in (IMAGES, SOUND, ROWS):
        array = np.random.default_rng(0).normal(size=about["shape"]).astype(np.float32)
        assert np.array_equal(runner.read_sample(saved(tmp_path / "x.npy", array), about), array[None])


def test_tokens_may_be_fewer_than_the_longest(tmp_path: Path):
    found = runner.read_sample(saved(tmp_path / "x.npy", np.array([3, 1, 4], np.int32)), TEXTS)
    assert (found.dtype, found.tolist()) == (np.int64, [[3, 1, 4]])


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1), ("RGBA", 3), ("P", 1)])
@pytest.mark.parametrize("size", [(6, 4), (31, 17), (3, 2)])
def test_an_image_of_any_mode_is_converted_then_resized(
    mode: str, channels: int, size: tuple[int, int], tmp_path: Path
):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(tmp_path / "image.png")
    with Image.open(tmp_path / "image.png") as image:
        converted = image.convert("L" if channels == 1 else "RGB").resize((6, 4), Image.Resampling.BILINEAR)
    expected = np.array(converted).reshape(4, 6, channels).transpose(2, 0, 1)
    assert np.array_equal(runner.read_image(tmp_path / "image.png", (channels, 4, 6)), expected)


def write_wav(path: Path, width: int, channels: int, count: int = 50, rate: int = 4000) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(np.random.default_rng(width).bytes(width * channels * count))
    return path


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_a_wav_is_heard_as_distiq_hears_it(width: int, channels: int, tmp_path: Path):
    path = write_wav(tmp_path / "clip.wav", width, channels)
    expected = audio.resampled(audio.read_sound(path), 4000)
    assert np.array_equal(runner.read_wav(path, 4000), expected)


@pytest.mark.parametrize("count", [3, 7, 8, 9, 50])
def test_a_clip_fills_the_window_as_in_distiq(count: int, tmp_path: Path):
    path = write_wav(tmp_path / "clip.wav", 2, 1, count)
    samples = runner.read_wav(path, 4000)
    expected = runner.fitted(samples, 8).astype(np.float32) / 32768
    assert np.array_equal(runner.read_sample(path, SOUND)[0], expected)
    assert np.array_equal(runner.read_sample(saved(tmp_path / "clip.npy", samples), SOUND)[0], expected)


def text(path: Path) -> Path:
    path.write_text("no sample")
    return path


@pytest.mark.parametrize(
    ("make", "about", "message"),
    [
        (lambda folder: folder / "no.npy", IMAGES, "no such file"),
        (lambda folder: folder / "no.png", IMAGES, r"no\.png: no such file"),
        (lambda folder: folder / "no.wav", SOUND, r"no\.wav: no such file"),
        (lambda folder: text(folder / "x.npy"), IMAGES, r"x\.npy: cannot be read"),
        (lambda folder: text(folder / "x.png"), IMAGES, "does not decode"),
        (lambda folder: text(folder / "x.wav"), SOUND, "WAV file does not decode"),
        (lambda folder: saved(folder / "x.npy", np.zeros((2, 13), int)), TEXTS, r"holds \(2, 13\)"),
        (lambda folder: write_wav(folder / "x.wav", 2, 1, rate=8000), SOUND, "8000 Hz; this model hears 4000 Hz"),
        (lambda folder: write_wav(folder / "x.wav", 2, 1, count=0), SOUND, "empty or cut short"),
        (lambda folder: saved(folder / "x.npy", np.zeros((4, 6, 3), np.uint8)), IMAGES, r"samples of \(3, 4, 6\)"),
        (lambda folder: saved(folder / "x.npy", np.zeros((3, 4, 6), int)), IMAGES, "int64; raw pixels are uint8"),
        (lambda folder: saved(folder / "x.npy", np.zeros(8, np.uint8)), SOUND, "uint8; raw samples are int16"),
        (lambda folder: saved(folder / "x.npy", np.zeros(7, np.float32)), SOUND, r"samples of \(8,\)"),
        (lambda folder: saved(folder / "x.npy", np.zeros((0, 5), np.float32)), ROWS, r"holds \(0, 5\)"),
        (lambda folder: saved(folder / "x.npy", np.zeros(7, int)), FIXED, r"samples of \(12,\)"),
        (lambda folder: saved(folder / "x.npy", np.full(5, np.nan)), ROWS, "holds NaN or infinite values; remove"),
        (lambda folder: saved(folder / "x.npy", np.full(5, 1e300)), ROWS, "holds NaN or infinite values"),
        (lambda folder: saved(folder / "x.npy", np.full(5, "1")), ROWS, "holds <U1; this model takes float32"),
        (lambda folder: saved(folder / "x.npy", np.full(5, 1.5)), TEXTS, "holds float64; this model takes int64"),
    ],
)
def test_what_is_no_sample_is_refused(make: Callable[[Path], Path], about: dict, message: str, tmp_path: Path):
    with pytest.raises(runner.Refused, match=message):
        runner.read_sample(make(tmp_path), about)


# Rows and texts -------------------------------------------------------------------------------------------------------

ENCODING = Encoding({"age": (30.0, (10.0, 20.0, 60.0))}, {"job": ("?", "cook", "smith")})
OF_ROWS = {"modality": "table", "shape": [5], "labels": ["a", "b"], **ENCODING.as_json()}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", 'id,age, job\n1, 25,"cook"\n\n2,,pilot\n'),
        ("x.tsv", 'job\tage\n"cook\t12\nsmith\t?\n'),
        ("x.json", '[{"age": 25, "job": " cook "}, {"job": null, "age": "NaN"}, {"age": 7}]'),
        ("x.json", '{"age": 25.5, "job": "smith"}'),
        ("x.jsonl", '\ufeff{"age": 25, "job": "a\u2028b"}\n\n{"age": 99, "job": "smith"}\n'),
    ],
)
def test_rows_are_read_and_encoded_as_in_distiq(name: str, content: str, tmp_path: Path):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    expected = ENCODING.encode(read_columns(path, ENCODING.columns), str(path))
    found, notes = runner.prepared(str(path), OF_ROWS, tmp_path)
    assert found.dtype == np.float32 and np.array_equal(found, expected.inputs.numpy())
    assert tuple(notes) == expected.notes


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "age,jobs\n1,cook\n", 'no column "job"; its columns: age, jobs'),
        ("x.csv", "age,job\n1\n", "line 2 has 1 values, but there are 2 columns"),
        ("x.csv", "age,age\n1,2\n", "names a column twice"),
        ("x.csv", "age,job\n", "holds no rows; every row has the columns age, job"),
        ("x.csv", "", "holds no rows"),
        ("x.csv", "age,job\nold,cook\n", 'column "age", row 1: "old" is no number'),
        ("x.csv", b"age,job\n1,\xff\n", "cannot be read .*save it as UTF-8"),
        ("x.json", "[1]", "holds no rows"),
        ("x.json", "{", "cannot be read"),
        ("x.txt", "age,job\n1,cook\n", "rows are read from .csv, .tsv, .json and .jsonl"),
    ],
)
def test_what_are_no_rows_is_refused(name: str, content: str | bytes, message: str, tmp_path: Path):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(runner.Refused, match=message):
        runner.prepared(str(tmp_path / name), OF_ROWS, tmp_path)


def test_rows_that_are_missing_are_refused(tmp_path: Path):
    with pytest.raises(runner.Refused, match=r"no\.csv: cannot be read \(No such file"):
        runner.prepared(str(tmp_path / "no.csv"), OF_ROWS, tmp_path)


@pytest.mark.parametrize("about", [ROWS, TEXTS])
def test_raw_samples_of_a_bundle_that_does_not_say_how_to_read_them_are_refused(about: dict, tmp_path: Path):
    with pytest.raises(runner.Refused, match=r"does not say how raw (table|text)s are read; give inputs in an \.npy"):
        runner.prepared("x.csv", about, tmp_path)


@pytest.fixture
def encoder(tmp_path: Path) -> TextEncoder:
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    found = TextEncoder(train_tokenizer(["the film is dull", "the film is lovely"], 60), 6)
    (tmp_path / "tokenizer.json").write_text(found.as_text(), encoding="utf-8")
    return found


@pytest.mark.parametrize("text", ["The film", "dull", "a film, lovely!", "the film is dull the film", "映画", "x" * 90])
def test_a_text_is_cut_into_the_tokens_of_distiq(text: str, encoder: TextEncoder, tmp_path: Path):
    expected = encoder.encode([text], "the text", to_longest=True)
    found, notes = runner.prepared(text, Text.of(encoder).to_json(), tmp_path)
    assert found.dtype == np.int64 and np.array_equal(found, expected.inputs.numpy())
    assert len(notes) == len(expected.notes)
    assert ["cut there" in note for note in notes] == ["cut there" in note for note in expected.notes]
    about = Text.of(encoder).to_json() | {"fixed_length": 6}
    padded = encoder.encode([text], "the text").inputs.numpy()
    assert np.array_equal(runner.prepared(text, about, tmp_path)[0], padded)


def test_a_tokenizer_s_file_is_parsed_once_until_it_changes(encoder: TextEncoder, tmp_path: Path):
    file = tmp_path / "tokenizer.json"
    first = runner.read_tokenizer(file)
    assert runner.read_tokenizer(file) is first
    file.write_text(TextEncoder(train_tokenizer(["another text"], 40), 6).as_text(), encoding="utf-8")
    assert runner.read_tokenizer(file).token_to_id("another") is not None
    file.unlink()
    with pytest.raises(runner.Refused, match=r"tokenizer\.json cannot be read"):
        runner.read_tokenizer(file)


def test_tokens_that_a_trimmed_model_does_not_know_are_said(encoder: TextEncoder, tmp_path: Path):
    about = Text.of(encoder).to_json()
    known = [number for number in range(about["vocabulary"]) if number != encoder.tokenizer.token_to_id("film")]
    about["kept"] = bitmap(known, about["vocabulary"])
    _, notes = runner.prepared("the film is dull", about, tmp_path)
    assert notes == ['"the film is dull": none of the model\'s vocabulary, counted as unknown: film']


@pytest.mark.parametrize(("text", "message"), [(" ", "the text is empty"), ("\udcff", "cannot be read")])
def test_what_is_no_text_is_refused(text: str, message: str, encoder: TextEncoder, tmp_path: Path):
    with pytest.raises(runner.Refused, match=message):
        runner.prepared(text, Text.of(encoder).to_json(), tmp_path)


# Checking, answering, timing ------------------------------------------------------------------------------------------


def vectors_of(outputs: np.ndarray) -> dict[str, np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (len(outputs), 3, 4, 6), dtype=np.uint8)
    return {"inputs": runner.normalized(pixels, IMAGES), "outputs": outputs, "pixels": pixels}


OUTPUTS = np.array([[0.0, 10.0, 4.0], [9.0, 0.0, 5.0], [1.0, 2.0, 3.0]], np.float32)


@pytest.mark.parametrize(("shift", "passed"), [(0.0, True), (0.19, True), (0.21, False), (np.nan, False)])
def test_two_hundredths_of_the_span_are_allowed(shift: float, passed: bool):
    answers = OUTPUTS + np.array([[0], [np.float32(shift)], [0]], np.float32)
    found = runner.check(lambda _: answers, vectors_of(OUTPUTS), IMAGES)
    printed = "\n".join(found.lines)
    assert found.passed == passed
    assert ("vector 1: " in printed) == (not passed)
    assert "vector 0" not in printed and "vector 2" not in printed


def test_a_changed_answer_fails_and_is_named():
    answers = OUTPUTS.copy()
    answers[2, 1] = 3.05
    found = runner.check(lambda _: answers, vectors_of(OUTPUTS), IMAGES)
    assert (found.passed, found.vectors, found.changed) == (False, 3, 1)
    assert found.lines[-1] == "  vector 2: predicts b, not c; a logit differs by 1.05"


def test_another_preparation_fails():
    found = runner.check(lambda _: OUTPUTS, vectors_of(OUTPUTS), IMAGES | {"mean": [0.5, 0.26, 0.1]})
    assert not found.passed
    first, second = found.lines
    assert first.startswith("FAIL: preparation, largest difference 0.1") and second.startswith("pass: 3 vectors")


def test_a_file_that_does_not_run_on_its_vectors_is_named():
    def predict(inputs: np.ndarray) -> np.ndarray:
        raise RuntimeError("Got invalid dimensions\nand more")

    with pytest.raises(
        runner.Refused, match=r"the test vectors: the model file does not run on \(3, 3, 4, 6\).*dimensions$"
    ):
        runner.check(predict, vectors_of(OUTPUTS), IMAGES)


def test_vectors_without_outputs_are_refused():
    with pytest.raises(runner.Refused, match="lacks inputs or outputs"):
        runner.check(lambda _: OUTPUTS, {"inputs": OUTPUTS}, IMAGES)


def test_another_number_of_classes_is_refused():
    with pytest.raises(runner.Refused, match=r"gives \(3, 2\) where \(3, 3\)"):
        runner.check(lambda _: OUTPUTS[:, :2], vectors_of(OUTPUTS), IMAGES)


def test_answers_are_softmax_probabilities():
    logits = np.log(np.array([0.2, 0.5, 0.3], np.float32)) + 100
    about = {"decoding": "softmax", "labels": ["a", "b", "c"]}
    assert runner.decoding_of(about).said(logits, about, 2) == "b 50.0 %  c 30.0 %"


def test_labels_have_their_own_probabilities():
    about = {"modality": "text", "decoding": "sigmoid", "labels": ["a", "b", "c"]}
    logits = np.log(np.array([0.25, 3.0, 1.0], np.float32))
    decoding = runner.decoding_of(about)
    assert decoding.said(logits, about, 2) == "b 75.0 %  c 50.0 %" and decoding.named(logits, about) == "b"
    assert decoding.changed(np.array([[1.0, -1.0]]), np.array([[2.0, -3.0]]), 0.0).tolist() == [False]


def test_outputs_that_only_the_task_understands_are_written_out():
    about = {"modality": "text", "decoding": "none", "labels": ["a"]}
    decoding = runner.decoding_of(about)
    assert decoding.said(np.array([0.5, -1.25, 3.0]), about, 2) == "0.5 -1.25 ..."
    assert decoding.changed(np.array([[1.0], [2.0]]), np.array([[1.1], [2.5]]), 0.2).tolist() == [False, True]


def test_a_decoding_that_is_not_known_is_refused():
    with pytest.raises(runner.Refused, match=r"decoding None is none of softmax, .*spans, mask, boxes, .*none"):
        runner.decoding_of({"labels": ["a"]})


def test_a_number_is_answered_and_checked_in_its_unit():
    about = {"modality": "text", "decoding": "number", "labels": ["stars"], "target": {"mean": 50.0, "std": 10.0}}
    outputs = np.array([[-1.0], [0.0], [1.0]], np.float32)
    assert runner.decoding_of(about).said(outputs[2], about, 3) == "stars 60"
    vectors = {"inputs": np.zeros((3, 4), np.int64), "outputs": outputs}
    assert runner.check(lambda _: outputs + 0.03, vectors, about).passed  # 2 % of the span are 0.04
    found = runner.check(lambda _: outputs + np.array([[0], [0.5], [0]], np.float32), vectors, about)
    assert (found.passed, found.changed) == (False, 1) and "predicts 55, not 50" in found.lines[-1]


def test_times_are_ordered_and_counted():
    calls = []
    found = runner.latency(lambda inputs: calls.append(1) or inputs, np.zeros((4, 2)), 3, 0.01)
    assert (found["batch"], found["threads"]) == (4, 3)
    assert len(calls) == found["runs"] + runner.WARM_UPS
    assert 0 < found["p50_ms"] <= found["p95_ms"] <= found["p99_ms"]
    assert found["throughput_per_s"] == pytest.approx(4000 / found["p50_ms"])


@pytest.mark.parametrize("parts", [["model.onnx"], ["model.xml", "model.bin"]])
def test_a_measurement_is_a_record_of_distiq(parts: list[str], tmp_path: Path):
    for name in parts:
        (tmp_path / name).write_bytes(name.encode())
    model = tmp_path / parts[0]
    times = [runner.latency(lambda inputs: inputs, np.zeros((1, 2)), 1, 0.001)]
    path = tmp_path / "device.json"
    path.write_text(json.dumps(runner.measurement(model, checksums(model), times)))
    (file,) = BenchRecord.load(path).files
    assert file.sha256 == checksums(model) and list(file.sha256) == parts
    assert file.size_bytes == sum(map(len, parts))


CPUINFO = "processor\t: 0\nFeatures\t: fp asimd asimddp\n\nprocessor\t: 1\n\nModel\t\t: Raspberry Pi 5\n"


def test_an_arm_machine_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runner.Path, "read_text", lambda *_, **__: CPUINFO)
    found = runner.machine()
    assert (found["cpu"], found["instruction_sets"]) == ("Raspberry Pi 5", ["asimddp"])


# Words and spans ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ann saw the U.S.", ["Ann", "saw", "the", "U.S", "."]),
        ('"London," she said: (1,000)', ['"', "London", ",", '"', "she", "said", ":", "(", "1,000", ")"]),
        ("@ann's #tag well-known", ["@ann", "'s", "#tag", "well-known"]),
        ("cafe\u0301 \u6771\u4eac", ["cafe\u0301", "\u6771", "\u4eac"]),
        ("a,b \u201cc\u201d", ["a", ",", "b", "\u201c", "c", "\u201d"]),
        (" \n", []),
    ],
)
def test_words_of_a_text(text: str, words: list[str]):
    assert [text[begin:end] for begin, end in runner.words_of(text)] == words


def test_spans_are_those_of_seqeval():
    labeling = pytest.importorskip("seqeval.metrics.sequence_labeling", reason="seqeval is not installed")
    draw = np.random.default_rng(0)
    names = ["O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in ("a", "b-c"))]
    for _ in range(500):
        tags = [names[number] for number in draw.integers(0, len(names), draw.integers(1, 9))]
        spans = [(kind, begin, end - 1) for kind, begin, end in runner.spans_in(tags)]
        assert spans == [tuple(span) for span in labeling.get_entities(tags)]


@pytest.mark.parametrize(("sizes", "most"), [([1] * 20, 8), ([3, 1, 8, 8, 2, 5, 1], 8), ([9, 9], 9), ([2], 9)])
def test_windows_hold_each_word_once(sizes: list[int], most: int):
    windows = runner.windows_of(sizes, most)
    assert [place for one in windows for place in range(one.own_begin, one.own_end)] == list(range(len(sizes)))
    for one in windows:
        assert one.begin <= one.own_begin <= one.own_end <= one.end
        assert sum(sizes[one.begin : one.end]) <= most


def test_windows_meet_where_they_may():
    windows = runner.windows_of([1] * 20, 8, [place % 5 == 0 for place in range(21)])
    assert [one.own_begin for one in windows if one.own_begin % 5] == []


def test_spans_of_a_long_text_have_their_places_in_it():
    """The model tags the token of "film" B-x, of "fine" I-x."""
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "fine", "film"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    seen = []

    def predict(ids: np.ndarray) -> np.ndarray:
        seen.append(ids.shape)
        tags = np.select([ids == 6, ids == 5], [1, 2], 0)
        return 9.0 * np.eye(3, dtype=np.float32)[tags].transpose(0, 2, 1)

    about = {"shape": [10], "labels": ["O", "B-x", "I-x"], "pad": 0}
    text = "a a film fine, " * 8
    spans = runner.spans(text, predict, about, tokenizer)
    assert [text[one.begin : one.end] for one in spans] == ["film fine"] * 8
    assert [one.begin for one in spans] == [4 + 15 * number for number in range(8)]
    assert {one.label for one in spans} == {"x"}
    assert max(seen) <= (1, 10) and len(seen) > 4
    assert runner.span_in_words(spans[0]) == '4 to 13: x "film fine" 100.0 %'
    with pytest.raises(runner.Refused, match="the text is empty"):
        runner.spans(" ", predict, about, tokenizer)
