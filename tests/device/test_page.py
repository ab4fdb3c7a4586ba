"""The page's scripts in Node.js: samples become what run.py makes of them; resized images may differ by one of 255."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load, save

import distiq
from distiq.device import run as runner

PAGE = Path(distiq.__file__).parent / "device" / "web"
DRAWING = ("page.js", "asks.js", "draws.js")  # these need a document
MODULES = sorted(file.name for file in PAGE.glob("*.js") if file.name not in DRAWING)
pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def in_node(body: str, tensors: dict[str, np.ndarray], facts: Any = None, folder: Path | None = None) -> dict[str, Any]:
    """Tensors that a function of the page gives: `body` fills `out` from the tensors `t` and the `facts`."""
    assert folder is not None
    for name in MODULES:
        (folder / name).write_bytes((PAGE / name).read_bytes())
    (folder / "package.json").write_text('{"type": "module"}')
    imports = ", ".join(f'...(await import("./{name}"))' for name in MODULES)
    (folder / "in").write_bytes(save({name: np.ascontiguousarray(one) for name, one in tensors.items()}))
    (folder / "facts.json").write_text(json.dumps(facts))
    (folder / "go.mjs").write_text(
        f'import fs from "node:fs"; const page = {{ {imports} }};\n'
        'const t = page.readTensors(new Uint8Array(fs.readFileSync("in")).buffer), out = {};\n'
        f'const facts = JSON.parse(fs.readFileSync("facts.json", "utf8"));\n{body}\n'
        'fs.writeFileSync("out", Buffer.from(await page.writeTensors(out).arrayBuffer()));\n'
    )
    said = subprocess.run(["node", "go.mjs"], cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert said.returncode == 0, said.stderr
    return load((folder / "out").read_bytes())


SIZES = [(28, 28), (40, 17), (9, 50), (101, 64), (5, 5), (300, 211)]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_resized_as_pillow_does(channels: int, tmp_path: Path):
    draw = np.random.default_rng(channels)
    images = {f"{h}x{w}": draw.integers(0, 256, (channels, h, w), np.uint8) for h, w in SIZES}
    found = in_node("for (const n in t) out[n] = page.resized(t[n], 28, 24);", images, None, tmp_path)
    for name, pixels in images.items():
        image = Image.fromarray(pixels.transpose(1, 2, 0).squeeze())
        for steps, most in (([(24, pixels.shape[1]), (24, 28)], 0), ([(24, 28)], 1)):  # columns may come first
            expected = image
            for size in steps:
                expected = expected.resize(size, Image.Resampling.BILINEAR)
            expected = np.asarray(expected, int).reshape(28, 24, channels).transpose(2, 0, 1)
            assert np.abs(found[name] - expected).max() <= most, name


def test_letterboxed_images_keep_their_sides(tmp_path: Path):
    about = {"shape": [3, 32, 32], "resize": "letterbox"}
    images = {f"{h}x{w}": np.random.default_rng(h).integers(0, 256, (3, h, w), np.uint8) for h, w in SIZES}
    found = in_node("for (const n in t) out[n] = page.fittedImage(t[n], facts);", images, about, tmp_path)
    for name, pixels in images.items():
        expected = runner.letterboxed(Image.fromarray(pixels.transpose(1, 2, 0)), (3, 32, 32)).astype(int)
        assert np.abs(found[name] - expected).max() <= 1, name


def test_grey_is_weighed_as_pillow_does(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
    pixels[..., 3] = 255
    found = in_node("out.grey = page.planes(t.rgba.data, 9, 7, 1);", {"rgba": pixels}, None, tmp_path)
    np.testing.assert_array_equal(found["grey"][0], np.asarray(Image.fromarray(pixels[..., :3]).convert("L")))


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_raw_samples_are_normalized_to_the_last_bit(modality: str, tmp_path: Path):
    is_image, draw = modality == "image", np.random.default_rng(0)
    raw = draw.integers(0, 256, (2, 3, 5, 4)).astype(np.uint8) if is_image else draw.integers(-(2**15), 2**15, (2, 99))
    raw = raw if is_image else raw.astype(np.int16)
    about = {
        "modality": modality,
        "divide_by": 255 if is_image else 32768,
        "mean": [0.1, 0.2, 0.3],
        "std": [0.3, 0.7, 1.1],
    }
    found = in_node("out.x = page.normalized(t.raw, facts);", {"raw": raw}, about, tmp_path)
    np.testing.assert_array_equal(found["x"], runner.normalized(raw, about))


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav_files_are_heard_alike(width: int, channels: int, tmp_path: Path):
    import wave

    path = tmp_path / "clip.wav"
    content = np.random.default_rng(width).integers(0, 256, 60 * width * channels, np.uint8)
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, 8000, 0, "NONE", ""))
        file.writeframes(content.tobytes())
    body = (
        "const samples = page.readWav(t.wav.data.buffer).samples;\n"
        'for (const n of [40, 60, 81]) out[n] = {type: "int16", data: page.fittedSound(samples, n), shape: [n]};'
    )
    found = in_node(body, {"wav": np.frombuffer(path.read_bytes(), np.uint8)}, None, tmp_path)
    for length in (40, 60, 81):
        expected = runner.fitted(runner.read_wav(path, 8000), length)
        np.testing.assert_array_equal(found[str(length)], expected)


ROWS = [
    {"age": "17", "hours": "1e2", "job": "baker"},
    {"age": "", "hours": "40.25", "job": "?"},
    {"age": "NA", "hours": "-7", "job": "never seen"},
]
TABLE = {
    "numeric": {"age": {"median": 37.0, "edges": [17.0, 30.5, 90.0]}, "hours": {"median": 40.0, "edges": [1.0, 99.0]}},
    "categorical": {"job": ["baker", "smith", "?"]},
}


def test_rows_are_encoded_alike(tmp_path: Path):
    body = "facts.rows.forEach((row, n) => (out[n] = page.encoded(row, facts.table).inputs));"
    found = in_node(body, {"none": np.zeros(1, np.float32)}, {"rows": ROWS, "table": TABLE}, tmp_path)
    for number, row in enumerate(ROWS):
        expected, _ = runner.encoded({name: [value] for name, value in row.items()}, TABLE, "row")
        np.testing.assert_array_equal(found[str(number)], expected)


@pytest.mark.parametrize("value", ["12 apples", "1,000", "0x10", "1e999", "nan "])
def test_what_is_no_number_is_refused(value: str, tmp_path: Path):
    body = (
        "let said = 0; try { page.encoded(facts.row, facts.table); } catch (error)"
        " { said = error instanceof page.Refused ? 1 : 2; }\n"
        'out.said = {type: "int8", data: Int8Array.of(said), shape: [1]};'
    )
    row = {"age": value, "hours": "1", "job": "baker"}
    found = in_node(body, {"none": np.zeros(1, np.float32)}, {"row": row, "table": TABLE}, tmp_path)
    assert found["said"].tolist() == [1]


def heads() -> dict[str, np.ndarray]:
    """What a detector of two classes gives for an image of 40 x 48, its boxes so large that many overlap."""
    draw = np.random.default_rng(3)
    sizes = {8: (5, 6), 16: (3, 3)}
    shapes = {(kind, stride): (1, rows, *size) for stride, size in sizes.items() for kind, rows in
              (("classes", 2), ("boxes", 4))}  # fmt: skip
    values = {f"{kind}_{stride}": draw.normal(0, 1, shape) for (kind, stride), shape in shapes.items()}
    return {name: one.astype(np.float32) for name, one in values.items()}


@pytest.mark.parametrize("resize", ["", "letterbox"])
def test_boxes_are_those_of_the_runner(resize: str, tmp_path: Path):
    about = {"shape": [3, 40, 48], "resize": resize, "labels": ["cat", "dog"], "decoding": "boxes"}
    body = """
        const joined = page.joinedHeads(t), boxes = page.objectsIn(joined, facts, [90, 60]);
        out.joined = joined;
        const rows = boxes.map(({ label, score, box }) => [label, score, ...box]);
        out.boxes = { type: "float32", data: Float32Array.from(rows.flat()), shape: [rows.length, 6] };"""
    found = in_node(body, heads(), about, tmp_path)
    joined = runner.joined_heads(heads())
    np.testing.assert_allclose(found["joined"], joined, rtol=1e-5, atol=1e-4)
    things = runner.objects_in(joined[0], about, (90, 60))
    expected = [[about["labels"].index(one["label"]), one["score"], *one["box"]] for one in things]
    assert len(expected) > 3
    np.testing.assert_allclose(found["boxes"], expected, atol=0.06)  # run.py writes tenths of a pixel


@pytest.mark.parametrize("resize", ["", "letterbox"])
def test_masks_are_those_of_the_runner(resize: str, tmp_path: Path):
    about = {"shape": [3, 8, 12], "resize": resize, "labels": ["road", "sky", "tree"], "decoding": "mask"}
    output = np.random.default_rng(0).normal(0, 1, (1, 3, 8, 12)).astype(np.float32)
    found = in_node("out.map = page.classMap(t.output, facts, [30, 20]);", {"output": output}, about, tmp_path)["map"]
    rows, columns = runner.fitted_size(30, 20, about["shape"]) if resize else (8, 12)
    np.testing.assert_array_equal(found, output[0].argmax(0)[:rows, :columns])


def test_a_mask_is_another_one_where_more_than_a_hundredth_of_it_is(tmp_path: Path):
    about = {"shape": [3, 10, 20], "labels": ["road", "sky"], "decoding": "mask"}
    plain = np.zeros((1, 2, 10, 20), np.float32)
    two, three = plain.copy(), plain.copy()
    two[0, 1, 0, :2], three[0, 1, 0, :3] = 1, 1
    body = """const changed = [t.two, t.three].map((one) => page.isChanged(one, t.plain, facts, 9));
        out.changed = { type: "uint8", data: Uint8Array.from(changed), shape: [2] };"""
    assert in_node(body, {"plain": plain, "two": two, "three": three}, about, tmp_path)["changed"].tolist() == [0, 1]


def text(value: str) -> str:
    """What fills `out.text` with a string of JavaScript, as bytes."""
    return (
        f"const said = new TextEncoder().encode({value});"
        " out.text = { type: 'uint8', data: said, shape: [said.length] };"
    )


def said(found: dict[str, np.ndarray]) -> Any:
    return json.loads(found["text"].tobytes().decode())


NONE = {"none": np.zeros(1, np.float32)}
WORDY = [
    "Ann's dog, (the big one) saw @bob_1 & #tags!", "  3,000 or 3,x or x,3?  ", "a\x1fb\x85c\ufeffd", "'s", "@", "##x",
    "\u6771\u4eac 2\u6708 Tokyo\u30bf\u30ef\u30fc", "\U0001f600 smile\U0001f600d \u201cquoted\u201d\u2026",
    "cafe\u0301 \u00bd", "\u00b2,\u00b2",
]  # fmt: skip


def random_texts(count: int) -> list[str]:
    """Texts of letters, signs, spaces and characters beyond 16 bits, in any order."""
    letters = [*"abS's.,;@#(3\u2019 \t", "\u6771", "\U0001f600", "\u0301", "\xa0", "\u00b2", "\u2026", "B-"]
    draw = np.random.default_rng(5)
    return ["".join(draw.choice(letters, draw.integers(1, 40))) for _ in range(count)]


def test_words_begin_and_end_where_the_runner_finds_them(tmp_path: Path):
    texts = [*WORDY, *random_texts(300)]
    found = said(in_node(text("JSON.stringify(facts.map(page.wordsOf))"), NONE, texts, tmp_path))
    for own, one in zip(found, texts, strict=True):
        assert [tuple(word) for word in own] == runner.words_of(one), one


def test_windows_are_those_of_the_runner(tmp_path: Path):
    draw = np.random.default_rng(0)
    sizes = [draw.integers(1, draw.integers(2, 12), draw.integers(1, 80)).tolist() for _ in range(200)]
    cases = [(one, int(draw.integers(max(one), 30))) for one in sizes]
    found = said(
        in_node(
            text("JSON.stringify(facts.map(([sizes, most]) => page.windowsOf(sizes, most)))"), NONE, cases, tmp_path
        )
    )
    for own, (one, most) in zip(found, cases, strict=True):
        windows = [(part["begin"], part["end"], part["ownBegin"], part["ownEnd"]) for part in own]
        assert windows == [tuple(part) for part in runner.windows_of(one, most)], (one, most)


def test_tags_write_down_the_same_spans(tmp_path: Path):
    tags = ["O", "B-a", "I-a", "E-a", "S-a", "B-b", "I-b", "E-b"]
    rows = np.random.default_rng(1).choice(tags, (300, 9)).tolist()
    found = said(in_node(text("JSON.stringify(facts.map(page.spansIn))"), NONE, rows, tmp_path))
    for own, row in zip(found, rows, strict=True):
        assert [(one["label"], one["first"], one["last"]) for one in own] == runner.spans_in(row)


ABOUT = {"shape": [12], "pad": 0, "fixed_length": 0, "labels": ["O", "B-name", "I-name", "B-place", "I-place"]}


def tokenizer_of_words() -> Any:
    """Two pieces to most words, one token in front, one behind."""
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcs", *[f"##{letter}" for letter in "abcs"], ",", "'", "@", "."]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


@pytest.mark.parametrize("fixed", [0, 12])
def test_spans_of_long_texts_are_those_of_the_runner(fixed: int, tmp_path: Path):
    """The page's tokenizer stands in: it knows what the words of these texts are."""
    tokenizer, about = tokenizer_of_words(), ABOUT | {"fixed_length": fixed}
    draw = np.random.default_rng(2)
    texts = ["ab", " ".join("".join(draw.choice([*"abcs,.@'z"], draw.integers(1, 7))) for _ in range(40))]
    weights = draw.normal(0, 1, (len(ABOUT["labels"]), 16)).astype(np.float32)
    words = {runner.nfc(one[begin:end]) for one in texts for begin, end in runner.words_of(one)} | {"a", "1", "."}
    ids = {word: [tokenizer.encode(word, add_special_tokens=add).ids for add in (False, True)] for word in words}

    def predict(inputs: np.ndarray) -> np.ndarray:
        return weights[:, inputs[0]][None]

    body = """
        const encode = (text, { add_special_tokens: all }) => ({ ids: facts.ids[text][all ? 1 : 0] });
        const tokenizer = { encode, token_to_id: (token) => (token === "[UNK]" ? 1 : undefined) };
        const predict = async ({ data }) => ({ type: "float32", shape: [1, 5, data.length], data: Float32Array.from(
          [0, 1, 2, 3, 4].flatMap((row) => [...data].map((id) => t.weights.data[row * 16 + Number(id)]))) });
        const spans = [];
        for (const one of facts.texts) spans.push(await page.spansOf(one, predict, facts.about, tokenizer));
    """ + text("JSON.stringify(spans)")
    facts = {"ids": ids, "texts": texts, "about": about}
    for own, one in zip(said(in_node(body, {"weights": weights}, facts, tmp_path)), texts, strict=True):
        expected = runner.spans(one, predict, about, tokenizer)
        assert [(span["label"], span["begin"], span["end"], span["text"]) for span in own] == [
            span[:4] for span in expected
        ]
        np.testing.assert_allclose(
            [span["probability"] for span in own], [span.probability for span in expected], rtol=1e-6
        )
    assert len(expected) > 5


@pytest.mark.parametrize("symbols", [["", "a", "b", "|"], ["", "one", "two", "three"]])
def test_frames_write_the_same_text(symbols: list[str], tmp_path: Path):
    outputs = np.random.default_rng(0).normal(0, 1, (30, 4, 25)).astype(np.float32)
    tensors = {str(number): one[None] for number, one in enumerate(outputs)}
    body = "const texts = facts.map((_, n) => page.spelt(page.greedy(t[n]), facts[n]));" + text("JSON.stringify(texts)")
    found = said(in_node(body, tensors, [symbols] * len(outputs), tmp_path))
    assert found == [runner.text_of(one, {"labels": symbols}) for one in outputs]


@pytest.mark.parametrize("length", [1, 39, 400, 401, 900, 3333])
def test_long_clips_are_written_down_as_the_runner_does(length: int, tmp_path: Path):
    """A network whose frames are 10 samples: the symbol of a frame is told by its mean."""
    about = {
        "shape": [200],
        "rate": 80,
        "frame": 10,
        "labels": ["", "a", "b", "c"],
        "modality": "audio",
        "divide_by": 32768,
    }
    draw = np.random.default_rng(length)
    samples = np.repeat(draw.integers(-(2**15), 2**15, 1 + length // 25), 25)[:length].astype(np.int16)
    levels = np.array([-0.6, -0.2, 0.2, 0.6], np.float32)

    def predict(window: np.ndarray) -> np.ndarray:
        return -np.abs(window.reshape(1, 1, 20, 10).mean(3) - levels[None, :, None])

    body = """
        const predict = async ({ data }) => {
          const logits = [-0.6, -0.2, 0.2, 0.6].flatMap((level) => Array.from({ length: 20 }, (_, frame) =>
            -Math.abs(data.slice(10 * frame, 10 * frame + 10).reduce((one, other) => one + other) / 10 - level)));
          return { type: "float32", data: Float32Array.from(logits), shape: [1, 4, 20] };
        };
        const clip = page.normalized({ ...t.samples, shape: [1, t.samples.data.length] }, facts), told = [];
        const whole = await page.writtenDown(clip, predict, facts, (text) => told.push(text));
    """ + text("JSON.stringify([whole, told.at(-1)])")
    chunks = (samples[start : start + 40] for start in range(0, length, 40))
    expected = runner.whole_text([one for *_, one in runner.written_down(predict, about, chunks)], about)
    assert said(in_node(body, {"samples": samples}, about, tmp_path)) == [expected, expected]


def test_a_long_clip_is_refused_where_no_frame_is_known(tmp_path: Path):
    about = {"shape": [200], "rate": 80, "labels": ["", "a"]}
    body = "let told; try { await page.writtenDown({ data: new Float32Array(300) }, null, facts); } catch (error)"
    body += "{ told = [error instanceof page.Refused, error.message]; }\n" + text("JSON.stringify(told)")
    is_refused, message = said(in_node(body, NONE, about, tmp_path))
    assert is_refused and "longer than the model's window" in message


def test_vectors_are_compared_and_written_as_numpy_reads_them(tmp_path: Path):
    vectors = np.random.default_rng(0).normal(0, 1, (2, 7)).astype(np.float32)
    body = """const [one, other] = [0, 1].map((row) => page.sample(t.vectors, row).data), file = page.npy([one, other]);
        out.cosine = { type: "float32", data: Float32Array.of(page.cosine(one, other)), shape: [1] };
        out.file = { type: "uint8", data: file, shape: [file.length] };"""
    found = in_node(body, {"vectors": vectors}, None, tmp_path)
    (tmp_path / "vectors.npy").write_bytes(found["file"].tobytes())
    np.testing.assert_array_equal(np.load(tmp_path / "vectors.npy"), vectors)
    one, other = vectors.astype(np.float64)
    assert found["cosine"] == pytest.approx(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize("decoding", ["spans", "transcript"])
def test_another_tag_or_another_text_is_a_change(decoding: str, tmp_path: Path):
    """A symbol that lasts for a frame longer is another tag, and the same text."""
    plain, longer, other = np.zeros((3, 1, 3, 4), np.float32)
    for output, symbols in ((plain, (0, 1, 0, 2)), (longer, (0, 1, 1, 2)), (other, (0, 1, 0, 1))):
        output[0, symbols, range(4)] = 1
    body = """const changed = [t.plain, t.longer, t.other].map((one) => page.isChanged(one, t.plain, facts, 9));
        out.changed = { type: "uint8", data: Uint8Array.from(changed), shape: [3] };"""
    tensors = {"plain": plain, "longer": longer, "other": other}
    found = in_node(body, tensors, {"decoding": decoding}, tmp_path)["changed"].tolist()
    assert found == [0, int(decoding == "spans"), 1]
