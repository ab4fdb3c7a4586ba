"""The page's script in Node.js: samples become what run.py makes of them; resized images may differ by one of 255."""

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

PAGE = Path(distiq.__file__).parent / "device" / "web" / "page.js"
pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def in_node(body: str, tensors: dict[str, np.ndarray], facts: Any = None, folder: Path | None = None) -> dict[str, Any]:
    """Tensors that a function of the page gives: `body` fills `out` from the tensors `t` and the `facts`."""
    assert folder is not None
    (folder / "page.mjs").write_bytes(PAGE.read_bytes())
    (folder / "in").write_bytes(save({name: np.ascontiguousarray(one) for name, one in tensors.items()}))
    (folder / "facts.json").write_text(json.dumps(facts))
    (folder / "go.mjs").write_text(
        'import fs from "node:fs"; import * as page from "./page.mjs";\n'
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
