"""Files from elsewhere that are damaged, odd or meant to harm: one message each, little memory, no code run."""

import gzip
import io
import json
import pickle
import resource
import struct
import wave
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from torch import nn

from distiq.bundle.open import Bundle
from distiq.bundle.write import write_parts
from distiq.data.columns import read_columns
from distiq.data.images import fashion_mnist, parse_idx, read_image
from distiq.data.inputs import Preparation, read_inputs
from distiq.data.sound import check_length, read_sound
from distiq.data.splits import Data
from distiq.data.tokenizer import TextEncoder
from distiq.device import run as runner
from distiq.errors import MOST_LINES, UserError, printable
from distiq.files import save_tensors, sha256_of_file
from distiq.models.checkpoint import load_weights
from distiq.models.from_onnx import read_onnx
from distiq.recipe.read import load_recipe
from distiq.report.measurements import keep_measurement
from distiq.report.reading import read_run
from distiq.runtimes.export import export
from distiq.training.checkpoint import Checkpoint

MOST_BYTES = 400_000_000  # that reading one of these may add to the process at its peak
DEEP = "[" * 200_000
RAN = "code of a file was run"


class Code:
    """A pickle that runs code."""

    def __reduce__(self) -> tuple[Callable, tuple]:
        return (print, (RAN,))


def peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def check_refused(read: Callable[[], Any], capfd: pytest.CaptureFixture[str]) -> str:
    """One message of a few printable lines, no code run, no large part of the memory taken."""
    before = peak()
    with pytest.raises((UserError, runner.Refused)) as caught:
        read()
    assert peak() < before + MOST_BYTES
    assert RAN not in capfd.readouterr().out
    message = str(caught.value)
    assert message and len(message.splitlines()) <= MOST_LINES and len(message) < 10_000
    return message


# Recipes --------------------------------------------------------------------------------------------------------------

RECIPES: dict[str, bytes] = {
    "no UTF-8": b'name = "\xff"',
    "deep lists": b"a = " + DEEP.encode(),
    "deep tables": b"a = " + b"{a = " * 50_000,
    "deep keys": b"a" + b".a" * 2_000 + b" = 1",
    "a number of many digits": b"seed = " + b"9" * 100_000,
    "bytes of zero": b"\0" * 1000,
    "cut": b'name = "tin',
    "many keys": b"\n".join(b"key%d = 1" % number for number in range(10_000)),
    "escapes": b'"\\u001b[2J" = 1',
    "too long": b"#" * 20_000_000,
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name: str, tmp_path: Path, capfd):
    path = tmp_path / "r.toml"
    path.write_bytes(RECIPES[name])
    message = check_refused(lambda: load_recipe(path), capfd)
    assert message.startswith(str(path)) and all(printable(line) == line for line in message.splitlines())


# Tables and texts -----------------------------------------------------------------------------------------------------

COLUMNS: dict[str, bytes] = {
    "zeros.csv": b"text,label\na\0b,1\n" * 3 + b"\0",
    "latin.csv": "text,label\ncafé,1\n".encode("latin-1"),
    "twice.csv": b"text,text\na,b\n",
    "ragged.tsv": b"text\tlabel\na\tb\tc\n",
    "long.csv": b'text,label\n"' + b"x" * 1_000_000 + b'",1\n',
    "open.csv": b'text,label\n"a,1\n',
    "empty.csv": b"",
    "deep.json": DEEP.encode(),
    "deep.jsonl": b'{"text": ' + DEEP.encode() + b"\n",
    "digits.json": b'[{"text": ' + b"9" * 100_000 + b"}]",
    "values.json": b"[1, 2]",
    "half.jsonl": b'{"text": "a", "label": 1}\n{"text": ',
    "garbage.parquet": b"no parquet",
    "magic.parquet": b"PAR1" + b"\xff" * 100 + struct.pack("<i", 90) + b"PAR1",
    "negative.parquet": b"PAR1" + struct.pack("<i", -1) + b"PAR1",
    "x.xlsx": b"PK\x03\x04",
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns(name: str, tmp_path: Path, capfd):
    (tmp_path / name).write_bytes(COLUMNS[name])
    assert name in check_refused(lambda: read_columns(tmp_path / name, ["text", "label"]), capfd)


def test_a_parquet_that_unpacks(tmp_path: Path, capfd):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(10**6, np.int8)), ["x" * 10_000])
    parquet.write_table(pyarrow.table({"text": rows}), tmp_path / "wide.parquet")
    assert (tmp_path / "wide.parquet").stat().st_size < 100_000
    check_refused(lambda: read_columns(tmp_path / "wide.parquet", ["text"]), capfd)


TOKENIZERS: dict[str, str] = {
    "empty": "",
    "no object": "[]",
    "nothing": "{}",
    "deep": DEEP,
    "unknown model": '{"model": {"type": "Mine"}}',
    "merges that are none": '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["b c"]}}',
    "a pattern that is none": json.dumps(
        {"model": {"type": "WordLevel", "vocab": {"[PAD]": 0}, "unk_token": "x"},
         "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}}
    ),
    "an alphabet of none": json.dumps(
        {"model": {"type": "Unigram", "unk_id": 9, "vocab": [["[PAD]", 0.0]]}, "added_tokens": []}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizer(name: str, tmp_path: Path, capfd):
    pytest.importorskip("tokenizers")
    check_refused(lambda: TextEncoder(TOKENIZERS[name], 8).encode(["a text"], "here"), capfd)
    (tmp_path / "tokenizer.json").write_text(TOKENIZERS[name])
    about = {"shape": [8], "pad": 0, "unknown": None, "special": []}
    check_refused(lambda: runner.tokens("a text", about, tmp_path / "tokenizer.json"), capfd)


# Images ---------------------------------------------------------------------------------------------------------------


def png(width: int, height: int, *more: bytes) -> bytes:
    """A PNG that states a size, with other chunks before an end without pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunk(part[:4], part[4:]) for part in more) + chunk(b"IEND", b"")


def saved_image(form: str, cut: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(stream, form)
    return stream.getvalue()[: cut or None]


IMAGES: dict[str, bytes] = {
    "empty.png": b"",
    "text.png": b"no image",
    "no pixels.png": png(8, 8),
    "half a gigapixel.png": png(22_000, 22_000),
    "a terapixel.png": png(2**31 - 1, 2**31 - 1),
    "100 megapixels.png": png(10_001, 10_000, b"IDAT" + zlib.compress(b"\0" * 100)),
    "a text that unpacks.png": png(8, 8, b"zTXta\0\0" + zlib.compress(b"\0" * 200_000_000)),
    "cut.jpg": saved_image("JPEG", 300),
    "cut.gif": saved_image("GIF", 100),
    "cut.webp": saved_image("WEBP", 100),
    "cut.tiff": saved_image("TIFF", 200),
    "program.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n",
    "icon.png": saved_image("ICO"),
    "exif.jpg": saved_image("JPEG")[:2] + b"\xff\xe1\x00\x10Exif\0\0II*\0\xff\xff\xff\xff" + saved_image("JPEG")[2:200],
}


@pytest.mark.parametrize("name", IMAGES)
def test_image(name: str, tmp_path: Path, capfd):
    (tmp_path / name).write_bytes(IMAGES[name])
    assert name in check_refused(lambda: read_image(tmp_path / name, (3, 8, 8)), capfd)


def idx(*sizes: int, content: bytes = b"") -> bytes:
    return bytes([0, 0, 8, len(sizes)]) + b"".join(struct.pack(">I", size) for size in sizes) + content


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0\x08", idx(2**32 - 1, 2**32 - 1, 2**32 - 1), idx(2**31, 2**31, 4), idx(5, content=b"abc"), idx(),
     idx(2, 1, 1, 1, content=b"ab"), b"\0\0\x0d" + idx(1)[3:], b"\0\0\x08\xff" + b"\xff" * 4 * 255],
)  # fmt: skip
def test_idx(content: bytes, capfd):
    check_refused(lambda: parse_idx(content, "images"), capfd)


@pytest.mark.parametrize(
    "content", [gzip.compress(b"\0" * 10**9, mtime=0), gzip.compress(idx(5), mtime=0)[:10], b"no gzip"]
)
def test_packed_idx(content: bytes, tmp_path: Path, capfd):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    check_refused(lambda: fashion_mnist(tmp_path, False), capfd)


# Sound ----------------------------------------------------------------------------------------------------------------


def wav(rate: int = 16_000, channels: int = 1, bits: int = 16, kind: int = 1, data: bytes = b"\0\1" * 100) -> bytes:
    align = channels * bits // 8
    form = struct.pack("<HHIIHH", kind, channels, rate, rate * align % 2**32, align % 2**16, bits)
    parts = b"fmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(parts)) + b"WAVE" + parts


SOUNDS: dict[str, bytes] = {
    "empty.wav": b"",
    "text.wav": b"no sound",
    "cut.wav": wav()[:30],
    "no data.wav": wav(data=b""),
    "0 Hz.wav": wav(rate=0),
    "1 Hz.wav": wav(rate=1),
    "999 Hz.wav": wav(rate=999),
    "4 GHz.wav": wav(rate=2**32 - 1),
    "no channels.wav": wav(channels=0),
    "no bits.wav": wav(bits=0),
    "unknown kind.wav": wav(kind=0x1234),
    "not a number.wav": wav(kind=3, bits=32, data=struct.pack("<ff", float("nan"), 1.0)),
    "text.flac": b"fLaC no sound",
}


@pytest.mark.parametrize("name", SOUNDS)
def test_sound(name: str, tmp_path: Path, capfd):
    (tmp_path / name).write_bytes(SOUNDS[name])
    assert name in check_refused(lambda: read_sound(tmp_path / name), capfd)
    if name.endswith(".wav") and "Hz" not in name and "number" not in name:
        check_refused(lambda: runner.read_wav(tmp_path / name, 16_000), capfd)


def test_a_clip_of_hours(tmp_path: Path, capfd):
    with wave.open(str(tmp_path / "long.wav"), "wb") as file:
        file.setparams((1, 2, 1000, 0, "NONE", ""))
        file.writeframes(b"\0\1" * 1000 * 3600)
    sound = read_sound(tmp_path / "long.wav")
    message = check_refused(lambda: check_length(sound, 1.0, "long.wav"), capfd)
    assert message.startswith("long.wav: 3,600 s long, but the model hears 1 s of it; cut it to at most 100 s")
    check_length(sound, 36.0, "long.wav")


# Arrays ---------------------------------------------------------------------------------------------------------------


def npy(shape: str, kind: str = "<f4", content: bytes = b"\0" * 16) -> bytes:
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + content


def packed(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


ARRAYS: dict[str, bytes] = {
    "empty.npy": b"",
    "text.npy": b"no array",
    "a terabyte.npy": npy("(250000000000, 4)"),
    "negative.npy": npy("(-1, 4)"),
    "no shape.npy": npy("__import__('os')"),
    "objects.npy": npy("(1, 4)", "|O", pickle.dumps(Code())),
    "cut.npy": npy("(4, 4)")[:-8],
    "pickle.npy": pickle.dumps(Code()),
    "a zip.npy": packed(a=npy("(1, 4)")),
    "unpacks.npz": packed(a=npy("(75000000, 4)", content=b"\0" * 1_200_000_000)),
    "two.npz": packed(a=npy("(1, 4)"), b=npy("(1, 4)")),
    "objects.npz": packed(a=npy("(1, 4)", "|O", pickle.dumps(Code()))),
    "text.npz": b"no zip",
    "a terabyte.npz": packed(a=npy("(250000000000, 4)")),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_array(name: str, tmp_path: Path, capfd):
    (tmp_path / name).write_bytes(ARRAYS[name])
    read = lambda: read_inputs(tmp_path / name, (4,), torch.float32, Preparation(), 8, 8)  # noqa: E731
    assert name in check_refused(read, capfd)
    if name.endswith(".npy"):
        check_refused(lambda: runner.read_npy(tmp_path / name), capfd)


# Weights and checkpoints ----------------------------------------------------------------------------------------------


def tensors(header: Any, content: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + content


TENSORS: dict[str, bytes] = {
    "empty": b"",
    "text": b"no tensors",
    "a long header": tensors({}, length=2**62),
    "a negative header": tensors({}, length=2**64 - 1),
    "a deep header": tensors(DEEP.encode()),
    "a list": tensors([1]),
    "outside": tensors({"weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
    "backwards": tensors({"weight": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}, b"\0" * 8),
    "too large a shape": tensors({"weight": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 8]}}, b"\0" * 8),
    "a negative shape": tensors({"weight": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]}}, b"\0" * 8),
    "an unknown type": tensors({"weight": {"dtype": "X9", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 8),
    "another shape": tensors({"weight": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, b"\0" * 8),
}


@pytest.mark.parametrize("name", TENSORS)
def test_safetensors(name: str, tmp_path: Path, capfd):
    path = tmp_path / "w.safetensors"
    path.write_bytes(TENSORS[name])
    check_refused(lambda: load_weights(nn.Linear(1, 2), path), capfd)
    check_refused(lambda: Checkpoint.read(path), capfd)
    if name != "a list":
        check_refused(lambda: runner.read_tensors(path), capfd)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
@pytest.mark.parametrize(
    "content", [pickle.dumps(Code()), b"no pickle", b"", b"PK\x03\x04"], ids=["code", "text", "0", "zip"]
)
def test_pickle(suffix: str, content: bytes, tmp_path: Path, capfd):
    (tmp_path / f"w{suffix}").write_bytes(content)
    check_refused(lambda: load_weights(nn.Linear(1, 2), tmp_path / f"w{suffix}"), capfd)


def test_a_pickle_of_a_network_is_not_run(tmp_path: Path, capfd):
    torch.save({"weight": Code()}, tmp_path / "w.pt")
    check_refused(lambda: load_weights(nn.Linear(1, 2), tmp_path / "w.pt"), capfd)


@pytest.mark.parametrize("meta", [DEEP, "", "nothing"])
def test_a_checkpoint_with_a_right_checksum_and_odd_texts(meta: str, tmp_path: Path, capfd):
    save_tensors({"model.a": torch.ones(1)}, tmp_path / "c.safetensors", {"meta": meta})
    assert "damaged checkpoint" in check_refused(lambda: Checkpoint.read(tmp_path / "c.safetensors"), capfd)


# ONNX -----------------------------------------------------------------------------------------------------------------


def graph(nodes: list, initializers: list = [], outputs: int = 1) -> onnx.ModelProto:  # noqa: B006
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], initializers)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)])


def outside(location: str) -> onnx.ModelProto:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    entry = weight.external_data.add()
    entry.key, entry.value = "location", location
    return graph([helper.make_node("Add", ["x", "w"], ["y"])], [weight])


def filled(size: int) -> onnx.ModelProto:
    """A graph that computes a constant of so many numbers."""
    shape = helper.make_tensor("s", TensorProto.INT64, [1], [size])
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["c"]), helper.make_node("ReduceSum", ["c"], ["r"], keepdims=0),
             helper.make_node("Add", ["x", "r"], ["y"])]  # fmt: skip
    return graph(nodes, [shape])


ONNX: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"no model",
    "cut": lambda: graph([helper.make_node("Relu", ["x"], ["y"])]).SerializeToString()[:-20],
    "an operation of nobody": lambda: graph([helper.make_node("Mine", ["x"], ["y"])]).SerializeToString(),
    "a circle": lambda: graph(
        [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"]),
         helper.make_node("Relu", ["b"], ["y"])]
    ).SerializeToString(),
    "nothing that makes the output": lambda: graph([helper.make_node("Relu", ["x"], ["z"])]).SerializeToString(),
    "weights elsewhere": lambda: outside("../../../../etc/passwd").SerializeToString(),
    "weights at a root": lambda: outside("/etc/passwd").SerializeToString(),
    "weights that are gone": lambda: outside("weights.bin").SerializeToString(),
    "weights without content": lambda: graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], [TensorProto(name="w", data_type=1, dims=[10**12])]
    ).SerializeToString(),
    "a constant of terabytes": lambda: filled(10**12).SerializeToString(),
    "a constant of gigabytes": lambda: filled(10**9).SerializeToString(),
}  # fmt: skip


@pytest.mark.parametrize("name", ONNX)
def test_onnx(name: str, tmp_path: Path, capfd):
    (tmp_path / "model.onnx").write_bytes(ONNX[name]())
    message = check_refused(lambda: read_onnx(tmp_path / "model.onnx"), capfd)
    assert message.startswith(str(tmp_path / "model.onnx")) and "root:" not in message


# Records --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", DEEP.encode(), b"\xff", b'{"a": ' + b"9" * 100_000 + b"}"]
)
def test_records(content: bytes, tmp_path: Path, capfd):
    (tmp_path / "run.json").write_bytes(content)
    check_refused(lambda: read_run(tmp_path), capfd)
    check_refused(lambda: keep_measurement(tmp_path, tmp_path / "run.json"), capfd)


# Bundles --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tiny_data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a tiny network, with the least card that opens."""
    folder = tmp_path_factory.mktemp("made")
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).eval()
    export(network, folder / "model.onnx", torch.zeros(2, 1, 8, 8))
    hashes = write_parts(folder / "bundle", folder / "model.onnx", tiny_data)
    (folder / "bundle" / "card.json").write_text(json.dumps({"model": "model.onnx", "sha256": hashes}))
    return folder / "bundle"


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    for file in made.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def changed(bundle: Path, **values: Any) -> None:
    card = json.loads((bundle / "card.json").read_text())
    (bundle / "card.json").write_text(json.dumps(card | values))


def rehash(bundle: Path) -> None:
    """A card that knows of a changed file."""
    card = json.loads((bundle / "card.json").read_text())
    changed(bundle, sha256={name: sha256_of_file(bundle / name) for name in card["sha256"]})


def opened(bundle: Path) -> None:
    """What both readers do with a bundle: distiq, and run.py on a device."""
    Bundle(bundle).check()


def on_device(bundle: Path) -> None:
    card = runner.read_card(bundle)
    about = runner.read_about(bundle)
    threads, options = runner.setting_of(card, bundle)
    runner.check(
        runner.load(bundle / card["model"], threads, options),
        runner.read_tensors(bundle / "vectors.safetensors"),
        about,
    )


READERS = pytest.mark.parametrize("read", [opened, on_device])


@READERS
def test_a_whole_bundle_is_read(read: Callable[[Path], None], bundle: Path):
    read(bundle)


CARDS: dict[str, dict[str, Any]] = {
    "a model elsewhere": {"model": "../model.onnx"},
    "a model at a root": {"model": "/model.onnx"},
    "a model that is a number": {"model": 3},
    "a model that is the folder": {"model": "."},
    "a setting that distiq never makes": {"setting": {"threads": 1, "options": {"session.custom_ops": "x.so"}}},
    "an option's unknown value": {"setting": {"threads": 1, "options": {"graph_optimization_level": "\x1b[2J"}}},
    "many threads": {"setting": {"threads": 10**9}},
    "no threads": {"setting": {"threads": 0}},
    "threads in words": {"setting": {"threads": "two"}},
    "a setting that is a list": {"setting": [1]},
    "options that are a list": {"setting": {"options": ["a"]}},
}


@READERS
@pytest.mark.parametrize("name", CARDS)
def test_card(name: str, read: Callable[[Path], None], bundle: Path, capfd):
    changed(bundle, **CARDS[name])
    assert "card.json" in check_refused(lambda: read(bundle), capfd)


@READERS
@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "a\\b", "", "..", "c:x", "a\0b"])
def test_a_card_names_files_of_the_bundle_alone(name: str, read: Callable[[Path], None], bundle: Path, capfd):
    card = json.loads((bundle / "card.json").read_text())
    changed(bundle, sha256={**card["sha256"], name: "0"})
    assert "which is not in the bundle" in check_refused(lambda: read(bundle), capfd)


@READERS
@pytest.mark.parametrize("content", [DEEP.encode(), b"", b"[]", b"\xff", b"{"])
@pytest.mark.parametrize("part", ["card.json", "preprocessing.json", "vectors.safetensors", "model.onnx"])
def test_bundle_part(part: str, content: bytes, read: Callable[[Path], None], bundle: Path, capfd):
    (bundle / part).write_bytes(content)
    if part != "card.json":
        rehash(bundle)
    assert part in check_refused(lambda: read(bundle), capfd)


PREPROCESSING: dict[str, dict[str, Any]] = {
    "a shape of terabytes": {"shape": [1, 10**6, 10**6]},
    "a long shape": {"shape": [1, 8, 8, 8]},
    "a negative shape": {"shape": [1, -8, -8]},
    "a shape of texts": {"shape": ["1", "8", "8"]},
    "a shape that is a number": {"shape": 10**12},
    "another shape": {"shape": [1, 8, 9]},
    "an unknown modality": {"modality": "smell"},
    "the form of another modality": {"modality": "text", "shape": [64]},
    "a modality that is a list": {"modality": ["image"]},
    "no labels": {"labels": []},
    "more labels": {"labels": list("abcdefg")},
    "labels that are numbers": {"labels": [1, 2, 3, 4]},
    "a mean of other channels": {"mean": [0.1, 0.2, 0.3]},
    "a mean of texts": {"mean": ["a"]},
    "no deviation": {"std": [0.0]},
    "an endless deviation": {"std": [float("inf")]},
    "divided by nothing": {"divide_by": 0},
    "an unknown type": {"raw": "load"},
    "a target of texts": {"target": {"mean": "a", "std": 1}},
}


@READERS
@pytest.mark.parametrize("name", PREPROCESSING)
def test_preprocessing(name: str, read: Callable[[Path], None], bundle: Path, capfd):
    path = bundle / "preprocessing.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | PREPROCESSING[name]))
    rehash(bundle)
    assert "preprocessing.json" in check_refused(lambda: read(bundle), capfd)


TABLE = {"modality": "table", "shape": [3], "labels": ["a", "b"], "raw": "float32", "mean": [], "std": [],
         "numeric": {"x": {"median": 1.0, "edges": [0.0, 2.0]}}, "categorical": {"y": ["?", "z"]}}  # fmt: skip
TEXT = {"modality": "text", "shape": [8], "labels": ["a", "b"], "raw": "int64", "vocabulary": 16, "pad": 0,
        "unknown": 1, "mask": None, "special": [2], "kept": "", "fixed_length": 0,
        "tokenizer": "tokenizer.json"}  # fmt: skip
SOUND = {"modality": "audio", "shape": [16], "labels": ["a", "b"], "raw": "int16", "rate": 8000, "divide_by": 32768}


@pytest.mark.parametrize(
    ("whole", "damage"),
    [
        (TABLE, {"numeric": {"x": {"median": 1.0, "edges": [2.0, 0.0]}}}),
        (TABLE, {"numeric": {"x": {"median": 1.0, "edges": [0.0]}}}),
        (TABLE, {"categorical": {"y": ["?"] * 1000}}),
        (TEXT, {"vocabulary": 10**15}),
        (TEXT, {"pad": 16}),
        (TEXT, {"special": [-1]}),
        (TEXT, {"kept": "AA=="}),
        (TEXT, {"fixed_length": 10**12}),
        (TEXT, {"tokenizer": "../tokenizer.json"}),
        (SOUND, {"rate": 1}),
        (SOUND, {"rate": 10**12}),
        (SOUND, {"divide_by": 0}),
        (SOUND, {"shape": [10**12]}),
    ],
)
def test_preprocessing_of_other_modalities(whole: dict, damage: dict):
    vectors = {"inputs": (5, *whole["shape"]), "outputs": (5, 2)}
    assert runner.unfit(whole, vectors) == ""
    assert runner.unfit(whole | damage, vectors) != ""


@READERS
def test_labels_of_a_bundle_send_nothing_to_the_terminal(read: Callable[[Path], None], bundle: Path):
    path = bundle / "preprocessing.json"
    labels = ["\x1b[2Ja", "b\x07", "c\r\n", "\x9b31md"]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": labels}))
    rehash(bundle)
    read(bundle)
    assert runner.read_about(bundle)["labels"] == Bundle(bundle).about["labels"] == ["a", "b", "c  ", "31md"]
