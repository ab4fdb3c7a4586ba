import hashlib
import os
import stat

import pytest
import torch
from safetensors import SafetensorError

from distiq.errors import UserError
from distiq.files import replacing, save_tensors, sha256_of_file, sha256_of_json, write_atomically


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
