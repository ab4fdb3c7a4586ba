"""Batches of labelled samples alone: each as often as the others, in other views, for as many steps as all take."""

from collections import Counter
from dataclasses import replace

import torch

from distiq.data.splits import Data, from_tensors, with_unlabelled
from distiq.data.views import Views
from distiq.recipe.data import ViewSettings
from distiq.training.batches import Batches


def data(unlabelled: int) -> Data:
    images = torch.randint(0, 255, (48, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(48) % 2
    made = from_tensors((images[:20], labels[:20]), (images[20:30], labels[20:30]), validation=5, calibration=5)
    return with_unlabelled(made, images[:unlabelled]) if unlabelled else made


def batches(made: Data, labelled: bool) -> Batches:
    return Batches(made, Views(ViewSettings(), 0), 4, 7, labelled=labelled)


def test_labelled_samples_come_again_until_an_epoch_is_as_long_as_with_all():
    own = batches(data(25), labelled=True)
    assert len(own) == 35 // 4
    shown = [batch for epoch in range(3) for batch in own.epoch(epoch)]
    assert all((batch.labels >= 0).all() for batch in shown)
    first = Counter(torch.cat([batch.indices for batch in own.epoch(0)]).tolist())
    assert set(first) == set(range(10))
    assert max(first.values()) - min(first.values()) <= 1
    # 10 of 35 samples have a label: four times through them, each in a view of its own
    assert [batch.view for batch in own.epoch(0)] == [0, 0, 0, 1, 1, 2, 2, 2]
    assert [batch.view for batch in own.epoch(1)][:3] == [4, 4, 4]


def test_where_all_have_labels_nothing_changes():
    made = data(0)
    for one, other in zip(batches(made, True).epoch(2), batches(made, False).epoch(2), strict=True):
        assert torch.equal(one.indices, other.indices)
        assert torch.equal(one.inputs, other.inputs)
        assert one.view == other.view


def test_texts_of_like_length_share_a_batch_unless_vectors_are_learned():
    tokens = torch.randint(1, 9, (120, 16), generator=torch.Generator().manual_seed(0))
    lengths = torch.arange(120) % 15 + 2
    tokens[torch.arange(16) >= lengths.unsqueeze(1)] = 0
    made = from_tensors((tokens, torch.arange(120) % 2), (tokens[:8], torch.arange(8) % 2), validation=10,
                        calibration=10, modality="text")  # fmt: skip
    spreads = []
    for task in ("", "embedding"):
        epoch = Batches(replace(made, task=task), Views(ViewSettings(), 0), 10, 0).epoch(0)
        spreads.append(float(torch.stack([(batch.inputs != 0).sum(1).float().std() for batch in epoch]).mean()))
    assert spreads[0] < 1.5 < 3 < spreads[1], "lengths of 2 to 16 have a deviation of 4.3"
