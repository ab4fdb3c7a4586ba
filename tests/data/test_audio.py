"""Clips from files: brought to one rate, one channel, one length, and what was done is said."""

import io
import shutil
import unicodedata
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from distiq.data.audio import (
    DIGIT_SPEAKERS,
    Audio,
    audio_folder,
    audio_manifest,
    digit_of,
    packaged_recordings,
    spoken_digits,
)
from distiq.data.load import load
from distiq.data.sound import Sound, read_sound, resampled
from distiq.data.splits import check_data, from_tensors
from distiq.device import run as runner
from distiq.device.run import fitted
from distiq.errors import UserError
from distiq.recipe.data import AudioSettings, DataSettings

RATE = 8000
SETTINGS = AudioSettings(rate=RATE, seconds=0.25)
ORIGINAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "spoken_digits" / "recordings.zip"


def tone(hertz: float, seconds: float = 0.25, rate: int = RATE, amplitude: float = 0.5) -> np.ndarray:
    return (amplitude * 32767 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.int16)


def write(path: Path, samples: np.ndarray, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, rate, samples)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Low and high tones, six of each for training and two for the test."""
    for part, count in (("train", 6), ("test", 2)):
        for name, hertz in (("high", 1500), ("low", 300)):
            for number in range(count):
                write(tmp_path / part / name / f"{number}.wav", tone(hertz + 10 * number))
    return tmp_path


def test_a_file_is_read_to_the_bit(tmp_path: Path):
    samples = np.random.default_rng(0).integers(-32768, 32768, 500).astype(np.int16)
    assert np.array_equal(resampled(read_sound(write(tmp_path / "a.wav", samples)), RATE), samples)


@pytest.mark.parametrize(
    ("dtype", "scale", "offset"), [(np.uint8, 127, 128), (np.int32, 2**31 - 1, 0), (np.float32, 1, 0)]
)
def test_every_type_of_sample_means_the_same_sound(dtype, scale: float, offset: float, tmp_path: Path):
    wanted = np.sin(np.arange(400) / 9) * 0.8
    path = write(tmp_path / "a.wav", (wanted * scale + offset).astype(dtype))
    np.testing.assert_allclose(read_sound(path).samples, wanted, atol=0.02 if dtype == np.uint8 else 1e-6)


def test_24_bits_are_read(tmp_path: Path):
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 3, RATE, 0, "NONE", ""))
        file.writeframes(b"\x00\x00\x40" * 10)  # 0x400000 is half of full scale
    assert read_sound(tmp_path / "a.wav").samples.tolist() == [0.5] * 10


def test_stereo_is_averaged(tmp_path: Path):
    left, right = tone(300), tone(700)
    sound = read_sound(write(tmp_path / "a.wav", np.stack([left, right], 1)))
    assert sound.channels == 2
    np.testing.assert_allclose(sound.samples, (left / 32768 + right / 32768) / 2, atol=1e-6)


@pytest.mark.parametrize("rate", [16000, 44100, 11025, 4000])
def test_a_resampled_tone_is_the_same_tone(rate: int):
    sound = Sound(tone(440, 0.5, rate) / np.float32(32768), rate, 1)
    middle = slice(RATE // 8, RATE // 4)  # the filter rings at the ends
    np.testing.assert_allclose(resampled(sound, RATE)[middle], tone(440, 0.5)[middle], atol=200)


@pytest.mark.parametrize(("length", "before"), [(4, -1), (6, 0), (9, 1)])
def test_a_clip_stands_in_the_middle_of_its_window(length: int, before: int):
    clip = np.arange(1, 7, dtype=np.int16)
    window = fitted(clip, length)
    assert len(window) == length
    if before < 0:
        assert window.tolist() == [2, 3, 4, 5]
    else:
        assert window[before : before + 6].tolist() == clip.tolist()
        assert window.sum() == clip.sum()


def test_a_folder_is_loaded_and_what_was_done_is_said(folder: Path):
    write(folder / "train" / "low" / "0.wav", tone(300, 0.25, 16000), 16000)
    write(folder / "train" / "low" / "1.wav", np.stack([tone(300)] * 2, 1))
    write(folder / "train" / "low" / "2.wav", tone(300, 0.1))
    write(folder / "train" / "low" / "3.wav", tone(300, 0.9))
    settings = DataSettings(source="audio", folder=str(folder), validation=2, calibration=2, audio=SETTINGS)
    data = load(settings, 0)
    assert data.preprocessing == Audio((2000,), RATE) and data.sample_shape == (2000,)
    assert data.classes == ("high", "low")
    assert data.train.inputs.dtype == torch.int16
    assert [len(part) for part in (data.train, data.validation, data.calibration, data.test)] == [8, 2, 2, 4]
    assert data.notes[:4] == (
        "1 of 16 clips resampled from 16000 to 8000 Hz",
        "1 of 16 clips of several channels averaged to one",
        "1 of 16 clips shorter than the window of 0.25 s: silence around them",
        "1 of 16 clips longer than the window of 0.25 s: their middle is kept",
    )
    assert data.notes[4].startswith("3 of 4 test clips are training clips, too (test/high/0.wav is train/high/0.wav,")
    assert data.record().notes == data.notes


def test_a_flac_file_is_read_as_the_wav(tmp_path: Path):
    soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed")
    soundfile.write(tmp_path / "a.flac", tone(300), RATE)
    assert np.array_equal(resampled(read_sound(tmp_path / "a.flac"), RATE), tone(300))


def test_a_flac_file_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    (tmp_path / "a.flac").write_bytes(b"fLaC")
    with pytest.raises(UserError, match="pip install soundfile"):
        read_sound(tmp_path / "a.flac")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def cut_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:30])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def no_samples(path: Path) -> None:
    write(path, np.zeros(0, np.int16))


def not_finite(path: Path) -> None:
    write(path, np.array([0.0, np.nan], np.float32))


def no_wav(path: Path) -> None:
    path.write_bytes(b"this is no sound")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (cut, "cut short|does not decode"),
        (cut_header, "cut short|does not decode"),
        (emptied, "is empty"),
        (no_samples, "holds no samples"),
        (not_finite, "NaN"),
        (no_wav, "does not decode"),
        (Path.unlink, "no such file"),
    ],
)
def test_a_bad_file_is_named(spoil, said: str, tmp_path: Path):
    path = write(tmp_path / "bad.wav", tone(300))
    spoil(path)
    with pytest.raises(UserError, match=rf"bad\.wav: .*({said})"):
        read_sound(path)


def test_an_empty_class_is_named(folder: Path):
    for path in (folder / "test" / "low").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="low: no clips in this class"):
        audio_folder(folder, SETTINGS)


def test_a_folder_names_no_speakers(folder: Path):
    with pytest.raises(UserError, match=r"data\.audio\.manifest"):
        audio_folder(folder, AudioSettings(rate=RATE, held_out=("ann",)))


@pytest.fixture
def manifest(tmp_path: Path):
    """Writes a manifest of eight clips with the given columns."""

    def make(columns: str = "path,label,speaker,split") -> Path:
        lines = [columns]
        for number in range(8):
            write(tmp_path / "clips" / f"{number}.wav", tone(300 + 600 * (number % 2)))
            row = {
                "path": f"clips/{number}.wav",
                "label": ("low", "high")[number % 2],
                "speaker": ("ann", "bob")[number // 4],
                "split": "test" if number in (0, 3) else "train",
            }
            lines.append(",".join(row[name] for name in columns.split(",")))
        (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
        return tmp_path

    return make


def listed(*held_out: str) -> AudioSettings:
    return AudioSettings(rate=RATE, seconds=0.25, manifest="list.csv", held_out=held_out)


def test_a_manifest_s_own_split(manifest):
    clips = audio_manifest(manifest(), listed())
    assert clips.classes == ("high", "low")
    assert (len(clips.train), clips.test.labels.tolist()) == (6, [1, 0])


def test_a_manifest_that_a_spreadsheet_saved(manifest):
    folder = manifest()
    (folder / "list.csv").write_text((folder / "list.csv").read_text(), encoding="utf-8-sig")
    assert audio_manifest(folder, listed()).classes == ("high", "low")


def test_a_class_of_test_clips_alone_is_refused(manifest):
    folder = manifest()
    text = (folder / "list.csv").read_text()
    (folder / "list.csv").write_text(text.replace("0.wav,low", "0.wav,hum"))
    with pytest.raises(UserError, match="no training clip is of the class hum"):
        audio_manifest(folder, listed())


def test_a_held_out_speaker_is_the_test_set(manifest):
    clips = audio_manifest(manifest("path,label,speaker"), listed("bob"))
    assert (len(clips.train), len(clips.test)) == (4, 4)


@pytest.mark.parametrize(
    ("columns", "held_out", "said"),
    [
        ("path,label", (), "no column split; it has path, label"),
        ("path,split", (), "no column label"),
        ("path,label", ("bob",), "no column speaker"),
        ("path,label,speaker", ("carl",), "nobody is called carl; the speakers: ann, bob"),
        ("path,label,speaker", ("ann", "bob"), "names every speaker"),
    ],
)
def test_a_manifest_that_does_not_fit(columns: str, held_out: tuple[str, ...], said: str, manifest):
    with pytest.raises(UserError, match=said):
        audio_manifest(manifest(columns), listed(*held_out))


def test_a_wrong_part_and_a_missing_manifest(manifest):
    folder = manifest()
    text = (folder / "list.csv").read_text()
    (folder / "list.csv").write_text(text.replace(",test", ",dev"))
    with pytest.raises(UserError, match=r'split "dev" of 0\.wav'):
        audio_manifest(folder, listed())
    (folder / "list.csv").unlink()
    with pytest.raises(UserError, match=r"list\.csv: cannot be read"):
        audio_manifest(folder, listed())


@pytest.fixture(scope="module")
def recordings() -> list[np.ndarray]:
    return packaged_recordings()


def test_the_packaged_digits_are_whole(recordings: list[np.ndarray]):
    assert len(recordings) == 3000
    assert sum(map(len, recordings)) * 2 == 20_996_848  # bytes of PCM in the published archive
    assert min(map(len, recordings)) / 8000 > 0.14
    assert digit_of(0) == (0, "george", 0)
    assert digit_of(2999) == (9, "yweweler", 49)
    assert digit_of(50 * 6 * 3 + 50 * 2 + 7) == (3, "lucas", 7)


@pytest.mark.skipif(not ORIGINAL.is_file(), reason="../shared/data is not here")
def test_the_packaged_digits_are_the_published_ones(recordings: list[np.ndarray]):
    with zipfile.ZipFile(ORIGINAL) as archive:
        for number in range(0, 3000, 37):
            digit, speaker, take = digit_of(number)
            content = archive.read(f"recordings/{digit}_{speaker}_{take}.wav")
            assert np.array_equal(recordings[number], wavfile.read(io.BytesIO(content))[1])


def test_the_official_split_of_the_digits():
    clips = spoken_digits(AudioSettings(rate=8000))
    assert (clips.train.inputs.shape, clips.test.inputs.shape) == ((2700, 8000), (300, 8000))
    assert clips.test.labels.bincount().tolist() == [30] * 10
    # Of the 3,000 clips 20 are longer than a second (counted in the published archive).
    assert "20 of 3,000 clips longer than the window of 1 s: their middle is kept" in clips.notes
    (note,) = [note for note in clips.notes if "speakers" in note]
    assert note.startswith("6 speakers are heard in the training and the test clips (george, jackson, lucas, ...)")


def test_a_speaker_of_the_digits_is_held_out():
    clips = spoken_digits(AudioSettings(rate=8000, seconds=0.1, held_out=("theo",)))
    assert (len(clips.train), len(clips.test)) == (2500, 500)
    with pytest.raises(UserError, match=f"the speakers: {', '.join(DIGIT_SPEAKERS)}"):
        spoken_digits(AudioSettings(held_out=("siri",)))


def test_clips_without_a_rate_are_refused():
    labels = torch.arange(20) % 2
    clips = (torch.zeros(20, 100, dtype=torch.int16), labels)
    data = from_tensors(clips, clips, validation=4, calibration=4, modality="audio")
    with pytest.raises(UserError, match="clips without a rate"):
        check_data(data)
    check_data(from_tensors(clips, clips, validation=4, calibration=4, modality="audio", rate=8000))


@pytest.mark.parametrize(
    ("ending", "subtype"), [("mp3", None), ("ogg", None), ("wav", "ALAW"), ("wav", "ULAW"), ("aiff", None)]
)
def test_sound_of_every_kind_is_read(ending: str, subtype: str | None, tmp_path: Path):
    soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed")
    wanted = tone(300, 1.0)
    soundfile.write(tmp_path / f"a.{ending}", wanted, RATE, subtype=subtype)
    found = resampled(read_sound(tmp_path / f"a.{ending}"), RATE)
    middle = slice(2000, 6000)
    assert len(found) == pytest.approx(len(wanted), abs=1200)  # MP3 pads to whole frames
    error = min(np.abs(found[at:][middle] - wanted[middle].astype(float)).mean() for at in range(0, 27))
    assert error < 0.05 * 16384


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_sound_from_a_pipe_is_read_to_its_end(size: int, tmp_path: Path):
    content = bytearray(write(tmp_path / "a.wav", tone(300)).read_bytes())
    for place in (4, 40):  # of the file, of its samples
        content[place : place + 4] = size.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(content)
    assert np.array_equal(resampled(read_sound(tmp_path / "a.wav"), RATE), tone(300))
    assert np.array_equal(runner.read_wav(tmp_path / "a.wav", RATE), tone(300))


def test_sound_beyond_full_scale_is_said(folder: Path):
    write(folder / "train" / "low" / "0.wav", 3 * np.sin(np.arange(2000) / 9).astype(np.float32))
    loaded = audio_folder(folder, SETTINGS)
    assert "1 of 16 clips louder than full scale: cut off there; scale them to -1..1" in loaded.notes
    encoded = Audio((2000,), RATE).encode(str(folder / "train" / "low" / "0.wav"), "here")
    assert encoded.notes == ("louder than full scale: cut off there",)


def test_speakers_are_never_split(manifest):
    folder = manifest()
    rows = [f"clips/{n % 8}.wav,{('low', 'high')[n % 2]},{'abcdef'[n // 8]},train" for n in range(48)]
    tests = [f"clips/{n}.wav,{('low', 'high')[n % 2]},{'ag'[n // 4]},test" for n in range(8)]
    (folder / "list.csv").write_text("\n".join(["path,label,speaker,split", *rows, *tests]))
    loaded = audio_manifest(folder, listed())
    assert loaded.groups == tuple("abcdef"[n // 8] for n in range(48))
    (note,) = [note for note in loaded.notes if "speakers" in note]
    assert note.startswith("1 speakers are heard in the training and the test clips (a)")
    settings = DataSettings(source="audio", folder=str(folder), validation=5, calibration=5, audio=listed())
    data = load(settings, 0)
    assert [len(part) for part in (data.train, data.validation, data.calibration)] == [32, 8, 8]


def test_a_manifest_may_name_validation_clips(manifest):
    folder = manifest()
    text = (folder / "list.csv").read_text().splitlines()
    moved = [line.replace("train", "dev") if number in (3, 6) else line for number, line in enumerate(text)]
    (folder / "list.csv").write_text("\n".join(moved))
    loaded = audio_manifest(folder, listed(), "dev")
    assert (len(loaded.train), len(loaded.test), len(loaded.validation)) == (4, 2, 2)
    speakers = [{line.split(",")[2] for line in moved[1:] if part in line} for part in ("train", "dev")]
    said = [note for note in loaded.notes if "speakers are heard in the training and the dev clips" in note]
    assert len(said) == bool(speakers[0] & speakers[1]) == 1
    with pytest.raises(UserError, match=r'split "dev" of .* is neither "train" nor "test"'):
        audio_manifest(folder, listed())


def test_a_column_of_a_manifest_that_is_there_twice_is_refused(manifest):
    folder = manifest()
    lines = (folder / "list.csv").read_text().splitlines()
    (folder / "list.csv").write_text("\n".join(f"{line},{line.split(',')[1]}" for line in lines))
    with pytest.raises(UserError, match='two columns are called "label"'):
        audio_manifest(folder, listed())


def test_a_speaker_is_the_same_however_the_name_is_written(manifest):
    decomposed, composed = (unicodedata.normalize(form, "Ren\u00e9") for form in ("NFD", "NFC"))
    folder = manifest()
    rows = [f"clips/{n}.wav,{('low', 'high')[n % 2]},{(decomposed, 'b')[n // 4]}" for n in range(8)]
    (folder / "list.csv").write_text("\n".join(["path,label,speaker", *rows]))
    loaded = audio_manifest(folder, listed(composed))
    assert (len(loaded.train), len(loaded.test)) == (4, 4)


def test_further_clips_are_trained_on_alone(folder: Path, tmp_path: Path):
    further = tmp_path / "further"
    for name, hertz in (("high", 1900), ("low", 500)):
        write(further / name / "a.wav", tone(hertz))
    settings = DataSettings(
        source="audio", folder=str(folder), audio=SETTINGS, validation=2, calibration=2, further=str(further)
    )
    data = load(settings, 0)
    assert (len(data.train), len(data.validation), len(data.calibration), len(data.test)) == (8 + 2, 2, 2, 4)
    assert data.train.labels[-2:].tolist() == [0, 1]
    assert torch.equal(data.train.fetch(torch.tensor([8]))[0], torch.from_numpy(tone(1900)))
    assert f"{further}: 2 further clips are trained on alone" in data.notes
    shutil.copytree(folder / "train", further, dirs_exist_ok=True)
    notes = " ".join(load(settings, 0).notes)
    assert "2 of 2 validation clips are training clips, too" in notes
    write(further / "other" / "a.wav", tone(500))
    with pytest.raises(
        UserError, match=r"data\.further: .* further/ has \['high', 'low', 'other'\]; make them the same"
    ):
        load(settings, 0)
    with pytest.raises(UserError, match=r"data\.further: no such folder"):
        load(settings.model_copy(update={"further": str(tmp_path / "nowhere")}), 0)
