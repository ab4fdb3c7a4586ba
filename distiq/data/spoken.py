"""Which clips have which texts: one manifest, one for each part, or the folders of LibriSpeech, Kaldi and others."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distiq.data.audio import CLIP_SUFFIXES, check_speakers
from distiq.data.columns import read_lines
from distiq.data.folders import walk
from distiq.data.part_file import FOLDERS, WORDS, find_part
from distiq.device import run as runner
from distiq.device.run import nfc
from distiq.errors import UserError
from distiq.recipe.data import AudioSettings

MANIFESTS = ("manifest.csv", "manifest.tsv", "manifest.jsonl")
LISTS = (".csv", ".tsv", ".json", ".jsonl")
PATHS = ("path", "audio_filepath", "file_name", "filename", "audio_path", "wav_filename", "file", "wav", "audio")
TEXTS = ("text", "sentence", "transcription", "transcript", "normalized_text", "utterance")
SPEAKERS = ("speaker", "speaker_id", "client_id", "spk")
SPLITS = ("split", "subset", "set", "part")
NO_OFFSET = ("0", "0.0", "0.00")
CLIP_FOLDERS = ("", "clips", "wavs", "wav", "audio")
FORMS = (
    "manifest.csv with path, text, and split or speaker; a manifest for each part (train.tsv, train_manifest.json); or"
    " folders train and test with metadata.csv, .trans.txt files, Kaldi's text and wav.scp, or a .txt beside each clip"
)


class NoClips(UserError):
    """Nothing lists clips with texts."""


class Spoken(NamedTuple):
    """A clip and what is said in it, by whom, in which part; `where` is its file and line."""

    path: Path
    text: str
    where: str
    speaker: str
    part: str


def spoken_lines(folder: Path, audio: AudioSettings, parts: Iterable[str]) -> list[Spoken]:
    """The clips of the parts of a folder, with their texts.

    Raises:
        UserError: there are none of a part, a line lacks a text, or a held-out speaker is unknown; the line is given.
    """
    one = [folder / name for name in ([audio.manifest] if audio.manifest else MANIFESTS)]
    manifest = next((file for file in one if file.is_file()), one[0] if audio.manifest else None)
    if manifest is not None:
        return _parted(list(_listed(manifest)), audio.held_out, manifest)
    if audio.held_out:
        raise UserError(
            f"data.audio.held_out: {folder} holds no manifest with a column of speakers; it has parts itself"
        )
    return [line for part in parts for line in _of_part(folder, part)]


def has_clips(folder: Path, audio: AudioSettings, part: str) -> bool:
    """Whether a part of a folder has clips with texts."""
    try:
        return any(line.part == part for line in spoken_lines(folder, audio, (part,)))
    except NoClips:
        return False


def further_lines(folder: Path) -> list[Spoken]:
    """The clips of a folder that are trained on alone, laid out as those of a part.

    Raises:
        UserError: there are none, or a line lacks a text.
    """
    if not (lines := list(_of_folder(folder, folder)) if folder.is_dir() else []):
        raise NoClips(
            f"data.further: {folder} holds no clips with texts; it takes manifest.csv with path and text, metadata.csv,"
            " .trans.txt files, Kaldi's text and wav.scp, or a .txt beside each clip"
        )
    return lines


def _parted(lines: list[Spoken], held_out: Sequence[str], manifest: Path) -> list[Spoken]:
    """The lines with their parts: of held-out speakers "test", else what their column says."""
    lacking = next((line for line in lines if not (line.speaker if held_out else line.part)), None)
    if lacking is not None:
        has = "speaker" if held_out else "split"
        raise UserError(
            f"{lacking.where} has no {has}; {manifest.name} needs a column {has} that says who speaks, or which part a"
            " clip is of" + ("" if held_out else " (train or test), or speakers in data.audio.held_out")
        )
    if not held_out:
        return lines
    check_speakers(held_out, {line.speaker for line in lines})
    return [line._replace(part="test" if line.speaker in held_out else "train") for line in lines]


def _of_part(folder: Path, part: str) -> list[Spoken]:
    kind = next((kind for kind, names in WORDS.items() if part in names), part)
    files = [file for file in find_part(folder, kind) if file.suffix.lower() in LISTS] if kind in WORDS else []
    words = {part, *WORDS.get(kind, ()), *FOLDERS.get(part, ())}
    inside = [place for place in sorted(folder.iterdir()) if place.is_dir()] if folder.is_dir() else []
    places = [place for place in inside if words & set(re.split(r"[^a-z0-9]+", place.name.lower()))]
    found = [_listed(file) for file in files] or [_of_folder(place, folder) for place in places]
    lines = [line._replace(part=part) for lines in found for line in lines]
    if not lines:
        raise NoClips(f"{folder}: no clips with texts of the {part} part; it takes {FORMS}")
    return lines


def _listed(file: Path) -> Iterator[Spoken]:
    """The lines of a manifest."""
    rows = list(_rows(file))
    if not all(isinstance(row, dict) for _, row in rows):
        raise NoClips(f"{file}: its rows are no objects; give each a path and a text")
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    path, text, speaker, split = (
        next((name for name in known if name in names), "") for known in (PATHS, TEXTS, SPEAKERS, SPLITS)
    )
    if missing := [known[0] for known, name in ((PATHS, path), (TEXTS, text)) if not name]:
        raise NoClips(f"{file}: no column {', '.join(missing)}; it has {', '.join(names) or 'none'}")
    for number, row in rows:
        where = f"{file}: line {number}"
        cells = {name: str(row.get(name) or "").strip() for name in (path, text, speaker, split) if name}
        if lacks := [name for name in (path, text) if not cells[name]]:
            raise UserError(f"{where} leaves {', '.join(lacks)} empty; a clip needs its text")
        if str(row.get("offset") or "0").strip() not in NO_OFFSET:
            raise UserError(f"{where} begins within its clip (offset); cut the clip: whole ones are read")
        clip = _clip(file.parent, cells[path])
        yield Spoken(clip, nfc(cells[text]), where, cells.get(speaker, ""), cells.get(split, ""))


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a manifest by their lines."""
    text = "\n".join(read_lines(file))
    try:
        if file.suffix.lower() in (".json", ".jsonl"):
            yield from enumerate(runner.objects(text, file.suffix.lower() == ".jsonl"), start=1)
            return
        lines = runner.table_lines(text, file.suffix.lower() == ".tsv")
    except (ValueError, RecursionError, csv.Error) as error:
        raise NoClips(f"{file}: cannot be read ({error}); give it CSV, TSV or JSON lines") from error
    names = [name.strip() for name in lines[0][1]]
    for number, row in lines[1:]:
        yield number, dict(zip(names, row, strict=False))


def _clip(base: Path, name: str) -> Path:
    """The file of a clip, which may lie in a folder of clips, and whose ending may be left out."""
    places = [base / inside / name for inside in CLIP_FOLDERS]
    places += [Path(f"{place}{ending}") for place in places for ending in CLIP_SUFFIXES if not Path(name).suffix]
    return next((place for place in places if place.is_file()), base / name)


def _of_folder(place: Path, root: Path) -> Iterator[Spoken]:
    """The clips of a part's folder."""
    own = [file for name in ("metadata", "manifest") for kind in LISTS if (file := place / f"{name}{kind}").is_file()]
    if own:
        yield from _listed(own[0])
    elif (place / "text").is_file() and (place / "wav.scp").is_file():
        yield from _of_kaldi(place, root)
    else:
        files = sorted(walk(place))
        for file in files:
            if file.name.endswith(".trans.txt"):
                yield from _of_librispeech(file)
            elif file.suffix.lower() in CLIP_SUFFIXES and (text := file.with_suffix(".txt")).is_file():
                yield _said(file, " ".join(read_lines(text)), str(text), "")


def _of_librispeech(file: Path) -> Iterator[Spoken]:
    """84-121123-0001 THE TEXT: speaker, chapter, utterance."""
    for number, line in enumerate(read_lines(file), start=1):
        name, _, text = line.strip().partition(" ")
        if name:
            yield _said(_clip(file.parent, name), text, f"{file}: line {number}", name.partition("-")[0])


def _of_kaldi(place: Path, root: Path) -> Iterator[Spoken]:
    """text and wav.scp: the name of an utterance, then its text, or the path of its clip; utt2spk: its speaker."""
    clips = dict(_named(place / "wav.scp"))
    speakers = dict(_named(place / "utt2spk")) if (place / "utt2spk").is_file() else {}
    for number, (name, text) in enumerate(_named(place / "text"), start=1):
        where, clip = f"{place / 'text'}: line {number}", clips.get(name, "")
        if not clip or clip.endswith("|"):
            said = "is a command, and distiq runs none: write the clips to files" if clip else "names no clip; add it"
            raise UserError(f"{place / 'wav.scp'}: of {name} it {said}")
        file = next((one for base in (place, root, root.parent) if (one := base / clip).is_file()), place / clip)
        yield _said(file, text, where, speakers.get(name, ""))


def _named(file: Path) -> list[tuple[str, str]]:
    parts = (line.strip().partition(" ") for line in read_lines(file) if line.strip())
    return [(name, rest.strip()) for name, _, rest in parts]


def _said(path: Path, text: str, where: str, speaker: str) -> Spoken:
    if not text.strip():
        raise UserError(f"{where} leaves text empty; a clip needs its text")
    return Spoken(path, nfc(text).strip(), where, speaker, "")
