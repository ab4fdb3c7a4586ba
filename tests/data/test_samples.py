import hashlib

import pytest
import torch

from distiq.data.samples import (
    CHUNK_BYTES,
    InMemory,
    Joined,
    Split,
    channel_sums,
    hashes_of,
    in_chunks,
    in_memory,
    standardized,
)


class Counting:
    """Samples that lie nowhere: each is its own number, three times."""

    shape, dtype = (3,), torch.int64

    def __len__(self) -> int:
        return 10

    def fetch(self, indices: torch.Tensor) -> torch.Tensor:
        return indices.unsqueeze(1).repeat(1, 3)

    def take(self, indices: torch.Tensor) -> InMemory:
        return InMemory(self.fetch(indices))


def test_a_split_reads_samples_wherever_they_lie():
    lazy, held = Split(Counting(), torch.arange(10)), in_memory(Counting().fetch(torch.arange(10)), torch.arange(10))
    some = torch.tensor([7, 0, 7])
    for split in (lazy, held):
        assert split.fetch(some)[:, 0].tolist() == [7, 0, 7]
        assert [chunk[:, 0].tolist() for chunk in split.chunks(4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert torch.equal(split.inputs, held.inputs)
        assert (split.samples.shape, split.samples.dtype, len(split)) == ((3,), torch.int64, 10)


@pytest.mark.parametrize("indices", [torch.tensor([8, 2]), slice(2), slice(20)])
def test_a_part_of_a_split_keeps_samples_and_labels_together(indices):
    part = Split(Counting(), torch.arange(10)).take(indices)
    assert isinstance(part.samples, InMemory)
    assert part.labels.tolist() == torch.arange(10)[indices].tolist() == part.inputs[:, 2].tolist()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (torch.tensor([[[0]], [[255]]], dtype=torch.uint8), [-0.5 / 0.25, 0.5 / 0.25]),
        (torch.tensor([[[-32768]], [[16384]]], dtype=torch.int16), [-1.5 / 0.25, 0.0]),
        (torch.tensor([[[0.5]], [[2.0]]]), [0.0, 1.5 / 0.25]),
    ],
)
def test_numbers_are_taken_over_their_span_and_standardized(values, expected):
    found = standardized(values, (0.5,), (0.25,))
    assert found.dtype == torch.float32 and found.flatten().tolist() == expected


def test_large_samples_are_read_a_few_at_a_time():
    samples = InMemory(torch.zeros(5, CHUNK_BYTES // 2, dtype=torch.uint8))
    assert [len(chunk) for chunk in in_chunks(samples)] == [2, 2, 1]
    assert [len(chunk) for chunk in in_chunks(samples, 1)] == [1] * 5
    assert [len(chunk) for chunk in in_chunks(InMemory(torch.zeros(2, CHUNK_BYTES)))] == [1, 1], "never none"


def test_hashes_are_of_each_sample_s_bytes():
    samples = torch.arange(12, dtype=torch.int16).view(3, 2, 2)
    expected = [list(hashlib.blake2b(one.numpy().tobytes(), digest_size=16).digest()) for one in samples]
    assert hashes_of(samples).tolist() == expected == InMemory(samples).hashes().tolist()
    assert hashes_of(samples.transpose(1, 2)).tolist() != expected


def test_sums_of_bytes_are_exact():
    samples = torch.tensor([[[255, 254], [1, 0]]], dtype=torch.uint8)  # two channels of two
    sums, squares = channel_sums(samples)
    assert (sums.tolist(), squares.tolist()) == ([509, 1], [255**2 + 254**2, 1])
    assert sums.dtype == torch.int64


def test_joined_samples_are_one_after_the_other():
    values = torch.arange(12, dtype=torch.uint8).view(4, 1, 3)
    whole, joined = InMemory(values), Joined(InMemory(values[:1]), InMemory(values[1:]))
    order = torch.tensor([3, 0, 1, 0])
    assert torch.equal(joined.fetch(order), values[order]) and torch.equal(
        joined.take(order).fetch(order), values[order][order]
    )
    assert torch.equal(joined.hashes(), whole.hashes())
    assert [total.tolist() for total in joined.channel_sums()] == [total.tolist() for total in whole.channel_sums()]
