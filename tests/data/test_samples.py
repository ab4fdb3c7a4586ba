import pytest
import torch

from distiq.data.samples import InMemory, Split, in_memory, standardized


class Counting:
    """Samples that lie nowhere: each is its own number, three times."""

    shape, dtype = (3,), torch.int64

    def __len__(self) -> int:
        return 10

    def fetch(self, indices: torch.Tensor) -> torch.Tensor:
        return indices.unsqueeze(1).repeat(1, 3)


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
