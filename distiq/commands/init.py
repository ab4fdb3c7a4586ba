"""init(path, data): writes a recipe, with the lines that matter for the data at hand."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distiq.errors import UserError
from distiq.files import write_atomically
from distiq.recipe.recipe import describe, schema
from distiq.recipe.toml import written

if TYPE_CHECKING:  # it loads torch, which `distiq init` alone can do without
    from distiq.data import survey, survey_words

SCHEMA_FILE = "distiq.schema.json"
FIRST_LINE = f"#:schema ./{SCHEMA_FILE}"
STEPS = 1500  # of a training from scratch, about
IMAGE_SIZES = (28, 32, 48, 64, 96)
LONGEST_SIDE = 320  # of images with boxes or masks
TEXT_LENGTHS = (16, 32, 64, 128, 256)


def init(path: Path, data: Path | None = None, *, every_key: bool = False, force: bool = False) -> str:
    """Writes the recipe `path`, and the schema beside it by which editors complete keys.

    Args:
        data: a folder or file of the user's; None takes the packaged Fashion-MNIST images.
        every_key: write every key with its default, not only those that matter.
        force: overwrite an existing recipe.

    Returns:
        What was found in `data`, in a sentence.

    Raises:
        UserError: the recipe exists already, or nothing in `data` can be read.
    """
    if path.exists() and not force:
        raise UserError(f"{path}: exists already; choose another name or add --force")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem)
    about, body = ("every key, its default and its meaning", describe(name)) if every_key else starter(name, data, path)
    write_atomically(path, f"{FIRST_LINE}\n# {about}\n#\n#     distiq run {path}\n\n{body.strip()}\n".encode())
    write_atomically(path.with_name(SCHEMA_FILE), schema().encode())
    return about


def starter(name: str, data: Path | None, path: Path) -> tuple[str, str]:
    """A sentence about the data, and the recipe's lines; the data's folder is written relative to the recipe's."""
    if data is None:
        about, body = "The packaged Fashion-MNIST images: 29,500 to train on, 10,000 for the test.", _packaged()
        return about, f'name = "{name}"\n\n{body}'
    from distiq.data import survey, survey_words

    surveyed = survey.survey(data)
    folder = _relative(surveyed.folder, path)
    match surveyed:
        case survey.Images():
            about, body = _images(surveyed, folder)
        case survey.Scenes():
            about, body = _scenes(surveyed, folder)
        case survey.Clips():
            about, body = _clips(surveyed, folder)
        case survey_words.Speech():
            about, body = _speech(surveyed, folder)
        case survey.Rows():
            about, body = _rows(surveyed, folder)
        case survey.Texts():
            about, body = _texts(surveyed, folder)
        case survey_words.Names():
            about, body = _names(surveyed, folder)
    return about, f'name = "{name}"\n\n{body}'


def _relative(folder: Path, recipe: Path) -> str:
    """A path as the recipe takes it: from its own folder, where that is above the data; else in full."""
    folder, home = folder.resolve(), recipe.resolve().parent
    return str(folder.relative_to(home) if folder.is_relative_to(home) else folder)


def _splits(train: int, validation: str = "") -> str:
    """Lines for the two splits that are taken out of the training samples, unless a file is there for validation."""
    share = max(1, train // 10)
    held = f"validation = {min(share, 2000):<12}# of the {train:,} training samples; they steer the run\n"
    return (
        f"validation = {written(validation)}    # they steer the run\n" if validation else held
    ) + f"calibration = {min(share, 512):<11}# of them, too; they set the ranges of int8"


def _training(train: int, optimizer: str, rate_at_64: float) -> str:
    """Lines for a training of about STEPS steps."""
    batch = next((size for size in (64, 32, 16) if train >= 40 * size), 8)
    epochs = min(60, max(8, round(STEPS * batch / train)))
    rate = float(f"{rate_at_64 * batch / 64:.2g}")
    return f'epochs = {epochs}\nbatch_size = {batch}\noptimizer = "{optimizer}"\nlearning_rate = {rate:g}'


def _nearest(sizes: Sequence[int], most: float) -> int:
    """The largest of the sizes that does not exceed `most`; if all do, the smallest."""
    return max((size for size in sizes if size <= most), default=sizes[0])


def _classes(classes: Sequence[str]) -> str:
    shown = ", ".join(classes[:4]) + (", ..." if len(classes) > 4 else "")
    return f"{len(classes)} classes ({shown})"


def _packaged() -> str:
    return _image_recipe('source = "fashion_mnist"\n' + _splits(29500), 29500, 100)


def _images(images: "survey.Images", folder: str) -> tuple[str, str]:
    height, width = images.size
    about = (
        f"{'Colour' if images.channels == 3 else 'Grey'} images of {_classes(images.classes)}: {images.train:,} to"
        f" train on, {images.test:,} for the test; most have {width} x {height} pixels."
    )
    size = _nearest(IMAGE_SIZES, min(images.size))
    data = (
        f'source = "folder"\nfolder = {written(folder)}\n'
        f"image_size = {size:<12}# every image is resized to this; larger sees more and takes longer\n"
        f"channels = {images.channels}\n" + _splits(images.train)
    )
    return about, _image_recipe(data, images.train, 300)


def _scenes(scenes: "survey.Scenes", folder: str) -> tuple[str, str]:
    height, width = scenes.size
    named = f" of {_classes(scenes.classes)}" if scenes.classes else ""
    about = (
        f"Images with {scenes.source}{named}: {scenes.train:,} to train on, {scenes.test:,} for the test; most have"
        f" {width} x {height} pixels."
    )
    share = min(1.0, LONGEST_SIDE / max(scenes.size))
    sides = [max(32, round(side * share / 16) * 16) for side in scenes.size]
    model = "detector" if scenes.source == "boxes" else "segmenter"
    moves = "mosaic = 0.3" if scenes.source == "boxes" else "crop = 0.5"
    training = _inline(_training(scenes.train, "adamw", 0.02).replace("batch_size = 64", "batch_size = 16"))
    return (
        about,
        f"""[data]
source = "{scenes.source}"
folder = {written(folder)}
image_size = {sides!s:<12}# height and width; larger sees more and takes longer
{_splits(scenes.train, scenes.validation)}

[views]
distinct = 8            # the student learns from eight views of each image
scale = 0.4             # larger or smaller by up to this share
{moves}

[teacher]
model = "{model}"
options = {{encoder = "resnet", width = 64}}
training = {{{training}, ema_decay = 0.99}}

[student]               # this network is shipped
model = "{model}"
options = {{width = 32}}
training = {{{training}, ema_decay = 0.99}}

[distil]
task_weight = 1.0
kd_weight = 0.5

{_budget(5, 300)}""",
    )


def _image_recipe(data: str, train: int, size_kb: int) -> str:
    return f"""[data]
{data}

[views]
flip = true             # false where left and right differ, as in digits and letters
shift = 2               # pixels

[teacher]               # trained here; `weights = "teacher.safetensors"` takes one that is trained
model = "resnet"
options = {{widths = [16, 48, 96], blocks = 1}}
training = {{{_inline(_training(train, "sgd", 0.1))}}}

[student]               # this network is shipped
model = "mobilenet_v2"
options = {{stem_stride = 2}}
training = {{{_inline(_training(train, "sgd", 0.1))}}}

{_budget(2, size_kb)}"""


def _clips(clips: "survey.Clips", folder: str) -> tuple[str, str]:
    about = (
        f"Clips of {_classes(clips.classes)}: {clips.train:,} to train on, {clips.test:,} for the test, at"
        f" {clips.rate:,} Hz; most are no longer than {clips.seconds:g} s."
    )
    manifest = f"manifest = {written(clips.manifest)}\n" if clips.manifest else ""
    held_out = f"held_out = {written(clips.held_out)}  # speakers of the test set\n" if clips.held_out else ""
    return (
        about,
        f"""[data]
source = "audio"
folder = {written(folder)}
{_splits(clips.train)}

[data.audio]
{manifest}{held_out}rate = {clips.rate:<18}# samples per second
seconds = {clips.seconds:<15g}# length of the window

[views]
distinct = 4            # the student learns from four views of each clip
audio = {{shift = 0.1, speed = 0.1, noise = 0.5}}

[teacher]
model = "audio_resnet"
options = {{rate = {clips.rate}, widths = [16, 48, 96]}}
training = {{{_inline(_training(clips.train, "adamw", 0.006))}}}

[student]               # this network is shipped
model = "ds_cnn"
options = {{rate = {clips.rate}}}
training = {{{_inline(_training(clips.train, "adamw", 0.006))}}}

{_budget(2, 60)}""",
    )


def _speech(speech: "survey_words.Speech", folder: str) -> tuple[str, str]:
    about = (
        f"Clips with texts of {speech.letters} letters: {speech.train:,} to train on, {speech.test:,} for the test, at"
        f" {speech.rate:,} Hz; the longest has {speech.seconds:g} s."
    )
    training = _inline(_training(speech.train, "adamw", 0.008) + "\nclip_norm = 5.0")
    return (
        about,
        f"""[data]
source = "transcripts"
folder = {written(folder)}
{_splits(speech.train, speech.validation)}

[data.audio]
rate = {speech.rate:<18}# samples per second
seconds = {speech.seconds:<15g}# no clip may be longer

[data.transcripts]
symbols = "characters"  # or "words"
lower = true            # texts are brought to lower case

[views]
distinct = 4            # the student learns from four views of each clip
audio = {{shift = 0.0, gain_db = 6.0, noise = 0.5}}

# A pretrained teacher is better: model = "transformers:wav2vec2", and its folder or hub name as `weights`.
[teacher]
model = "ctc_gru"
options = {{rate = {speech.rate}}}
training = {{{training}}}

[student]               # this network is shipped
model = "ctc_cnn"
options = {{rate = {speech.rate}}}
training = {{{training}}}

[distil]
temperature = 1.0
task_weight = 0.5
kd_weight = 1.0

{_budget(2, 500)}""",
    )


def _rows(rows: "survey.Rows", folder: str) -> tuple[str, str]:
    left = f" Left out: {', '.join(rows.left_out)}." if rows.left_out else ""
    of = _predicted(rows)
    about = (
        f"Rows {of}: {rows.train:,} to train on,"
        f" {len(rows.numeric)} columns of numbers, {len(rows.categorical)} of categories.{left}"
    )
    return (
        about,
        f"""[data]
source = "table"
folder = {written(folder)}
{_splits(rows.train)}

[data.table]
{_files_and_header(rows.parts, rows.header)}{"label" if rows.classes else "target"} = {written(rows.label)}
numeric = {written(rows.numeric)}
categorical = {written(rows.categorical)}

[views]
distinct = 1            # rows are shown as they are

[teacher]               # or any callable: `predict = "file.py:function"`
model = "mlp"
options = {{hidden = [256, 128]}}
training = {{{_inline(_training(rows.train, "adamw", 0.002))}}}

[student]               # this network is shipped
model = "mlp"
options = {{hidden = [64, 32]}}
training = {{{_inline(_training(rows.train, "adamw", 0.003))}}}

{_budget(2, 60)}""",
    )


def _predicted(columns: "survey.Rows | survey.Texts") -> str:
    """What is to be predicted, in words."""
    if not columns.classes:
        return f'with a number in "{columns.label}"'
    return f'of {_classes(columns.classes)} in "{columns.label}"'


def _texts(texts: "survey.Texts", folder: str) -> tuple[str, str]:
    of = _predicted(texts)
    pairs = f' and "{texts.pair}"' if texts.pair else ""
    about = (
        f'Texts in "{texts.text}"{pairs} {of}: {texts.train:,} to train on; most have no more than {texts.words} words.'
    )
    pair = f"pair = {written(texts.pair)}\n" if texts.pair else ""
    label = f"{'label' if texts.classes else 'target'} = {written(texts.label)}"
    length = next((size for size in TEXT_LENGTHS if size >= 1.3 * texts.words + 2), TEXT_LENGTHS[-1])
    return (
        about,
        f"""[data]
source = "text"
folder = {written(folder)}
{_splits(texts.train)}

[data.text]             # without `tokenizer` one is trained on these texts
{_files_and_header(texts.parts, texts.header)}text = {written(texts.text)}
{pair}{label}
length = {length:<16}# tokens kept of a text

[views]
distinct = 1            # texts are shown as they are

{_networks_for_texts(texts.train)}

{_budget(2, 1000)}""",
    )


def _networks_for_texts(train: int) -> str:
    training = _inline(_training(train, "adamw", 0.004))
    return f"""\
# A pretrained teacher is better: model = "transformers:bert", finetune = true, and the same folder or hub name as
# `weights` here and as `tokenizer` above, such as "sentence-transformers/all-MiniLM-L6-v2".
[teacher]
model = "text_bilstm"
training = {{{training}}}

[student]               # this network is shipped
model = "text_cnn"
training = {{{training}}}"""


def _names(names: "survey_words.Names", folder: str) -> tuple[str, str]:
    kinds = _classes(names.kinds).replace("classes", "kinds")
    about = f"Sentences with spans of {kinds}: {names.train:,} to train on; most have no more than {names.words} words."
    length = next((size for size in TEXT_LENGTHS if size >= 1.3 * names.words + 2), TEXT_LENGTHS[-1])
    return (
        about,
        f"""[data]
source = "entities"
folder = {written(folder)}
{_splits(names.train, names.validation)}

[data.entities]
train = {written(names.parts[0])}
test = {written(names.parts[1])}

[data.text]             # without `tokenizer` one is trained on these texts
length = {length:<16}# tokens of a window; longer texts are read in several

[views]
distinct = 1            # texts are shown as they are

{_networks_for_texts(names.train)}

{_budget(4, 2000)}""",
    )


def _files_and_header(parts: tuple[str, str], header: Sequence[str]) -> str:
    lines = f"train = {written(parts[0])}\ntest = {written(parts[1])}\n"
    return lines + (f"header = {written(header)}  # the files' first line is none\n" if header else "")


def _inline(lines: str) -> str:
    return lines.replace("\n", ", ")


def _budget(drop: float, size_kb: int) -> str:
    return f"""[budget]                # what the int8 file must hold; the run goes on until it does
drop = {drop:g}
size_kb = {size_kb}"""
