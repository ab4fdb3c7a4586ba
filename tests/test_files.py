import contextlib
import hashlib
import os
import stat

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from distiq.errors import UserError
from distiq.files import (
    is_intact,
    load_tensors,
    replace_folder,
    replacing,
    save_tensors,
    sha256_of_file,
    sha256_of_json,
    standing,
    write_atomically,
)


def test_a_written_file_is_whole_and_alone(tmp_path):
    target = tmp_path / "new" / "folder" / "file.bin"
    write_atomically(target, b"content")
    assert target.read_bytes() == b"content"
    assert [entry.name for entry in target.parent.iterdir()] == ["file.bin"]


def test_the_old_content_stands_until_the_end(tmp_path):
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with replacing(target) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == target.parent
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_content_and_nothing_else(tmp_path, error):
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def write():
        with replacing(target) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_explained(tmp_path):
    def write():
        with replacing(tmp_path / "file"):
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"file: writing failed \(No space left on device\)"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_explained(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"below: cannot write here .*choose another folder"):
        write_atomically(tmp_path / "file" / "below", b"content")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "file", b"")
        assert os.umask(umask) == umask, "writing changed the umask"
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_hashes(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_of_file(tmp_path / "file") == hashlib.sha256(b"abc").hexdigest()
    assert sha256_of_json({"b": [1], "a": None}) == hashlib.sha256(b'{"a":null,"b":[1]}').hexdigest()
    assert sha256_of_json({"a": 1, "b": 2}) == sha256_of_json({"b": 2, "a": 1})


def test_a_full_disk_leaves_no_tensors_behind(tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(UserError, match=r"weights\.safetensors: writing failed \(.*No space left"):
        save_tensors({"weight": torch.ones(2)}, tmp_path / "weights.safetensors")
    assert list(tmp_path.iterdir()) == []


# Tensors and folders --------------------------------------------------------------------------------------------------


def test_tensors_come_back_with_their_texts(tmp_path):
    tensors = {"a": torch.arange(3.0), "b": torch.tensor([[True]])}
    save_tensors(tensors, tmp_path / "t", {"key": "value"})
    found, texts = load_tensors(tmp_path / "t")
    assert texts == {"key": "value"}
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in found)
    assert is_intact(tmp_path / "t")


def test_a_single_value_of_any_stride_has_a_checksum(tmp_path):
    strided = torch.empty_strided((1, 1), (32, 32)).fill_(2.0)
    save_tensors({"a": strided}, tmp_path / "t", {})
    assert is_intact(tmp_path / "t") and load_tensors(tmp_path / "t")[0]["a"].tolist() == [[2.0]]


@pytest.mark.parametrize("place", [-1, 30])
def test_a_turned_bit_is_found_by_the_file_s_own_checksum(tmp_path, place):
    save_tensors({"a": torch.arange(3.0)}, tmp_path / "t", {"key": "v" * 40})
    content = bytearray((tmp_path / "t").read_bytes())
    content[place] ^= 1
    (tmp_path / "t").write_bytes(content)
    assert not is_intact(tmp_path / "t")


def test_tensors_without_a_checksum_are_not_taken_for_whole(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "t")
    with pytest.raises(ValueError, match="SHA-256"):
        load_tensors(tmp_path / "t")


@pytest.fixture(params=["exchanged", "renamed"])
def system(request, monkeypatch):
    """Systems that let two folders change places, and those that do not."""
    if request.param == "renamed":
        monkeypatch.setattr("distiq.files._exchanged", lambda *_: False)


def folder_of(path, **files):
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text)
    return path


@pytest.mark.usefixtures("system")
def test_a_folder_is_replaced_whole_and_what_others_put_there_is_kept(tmp_path):
    target = tmp_path / "target"
    for number in range(2):
        replace_folder(
            folder_of(tmp_path / "new", **{f"model{number}": "m", "card": str(number)}), target, ["model?", "card"]
        )
        (target / "notes").write_text("mine")
    assert {entry.name: entry.read_text() for entry in target.iterdir()} == {
        "model1": "m",
        "card": "1",
        "notes": "mine",
    }
    assert [entry.name for entry in tmp_path.iterdir()] == ["target"]


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("calls", [0, 1])
def test_a_replacement_cut_off_anywhere_leaves_the_old_or_the_new(tmp_path, monkeypatch, calls):
    """A kill between two renames: what follows does not happen."""
    target, new = folder_of(tmp_path / "target", card="old"), folder_of(tmp_path / "new", card="new")
    rename, done = os.replace, []

    def killed(*places):
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(rename(*places))

    monkeypatch.setattr(os, "replace", killed)
    with contextlib.suppress(KeyboardInterrupt):
        replace_folder(new, target, ["card"])
    monkeypatch.undo()
    assert (standing(target) / "card").read_text() in ("old", "new")
    replace_folder(folder_of(tmp_path / "newer", card="newer"), target, ["card"])
    assert (target / "card").read_text() == "newer"


def test_a_rename_that_fails_puts_the_old_one_back(tmp_path, monkeypatch):
    monkeypatch.setattr("distiq.files._exchanged", lambda *_: False)
    target, new = folder_of(tmp_path / "target", card="old"), folder_of(tmp_path / "new", card="new")
    rename = os.replace

    def full(source, goal):
        if source == new:
            raise OSError(28, "No space left on device")
        rename(source, goal)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        replace_folder(new, target, ["card"])
    assert (target / "card").read_text() == "old"


def test_written_files_and_their_folders_are_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.readlink(f"/proc/self/fd/{handle}")))
    write_atomically(tmp_path / "a" / "b" / "file", b"")
    assert [place for place in synced if not place.endswith(".partial")] == [
        str(place) for place in (tmp_path / "a", tmp_path, tmp_path / "a" / "b")
    ]
    assert len(synced) == 4 and synced[2].endswith(".partial"), "the file before its name"
