"""The losses that learn or remember, computed again by hand from their parameters."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distiq.distillation.feature_losses import reviewkd_hcl
from distiq.distillation.learned_losses import CRD, MGD, VID, ReviewKD, SimilarityQueue


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def enlarged(maps: Tensor) -> Tensor:
    return maps.repeat_interleave(2, 2).repeat_interleave(2, 3)


def units(rows: Tensor) -> list[list[float]]:
    return [[value / math.sqrt(sum(x * x for x in row)) for value in row] for row in rows.tolist()]


def dot(x: list[float], y: list[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


# VID


def test_vid_is_the_gaussian_log_likelihood():
    """-log q(t | s) = log sigma_c + (t - mu)^2 / (2 sigma_c^2), a channel's variance, a pixel's mean."""
    vid = VID(3, 2)
    with torch.no_grad():
        vid.raw.copy_(torch.tensor([0.3, -1.2]))
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 2, 4, 4)
    values = student.numpy()
    for layer in (0, 2, 4):
        values = np.einsum("oi,bihw->bohw", vid.mean[layer].weight.detach().numpy()[:, :, 0, 0], values)
        values = values if layer == 4 else np.maximum(values, 0)
    variance = np.log1p(np.exp([0.3, -1.2])).reshape(1, 2, 1, 1) + 1e-5
    expected = np.mean(np.log(np.sqrt(variance)) + (teacher.numpy() - values) ** 2 / (2 * variance))
    assert vid(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_vid_starts_with_its_variance():
    vid = VID(3, 2, variance=7.0)
    for parameter in vid.mean.parameters():
        nn.init.zeros_(parameter)
    assert vid(torch.randn(2, 3, 4, 4), torch.zeros(2, 2, 4, 4)).item() == pytest.approx(math.log(7) / 2, rel=1e-5)


# MGD


@pytest.mark.parametrize("masked", [0.0, 0.5, 1.0])
def test_mgd_masks_pixels_of_all_channels(masked: float):
    mgd = MGD(3, 3, masked=masked)
    mgd.generate = nn.Identity()
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    torch.manual_seed(5)
    draws = torch.rand(2, 1, 4, 4)
    expected = 0.0
    for sample, channel, row, column in np.ndindex(2, 3, 4, 4):
        kept = draws[sample, 0, row, column] >= masked
        generated = student[sample, channel, row, column] if kept else 0
        expected += float(generated - teacher[sample, channel, row, column]) ** 2 / 2
    torch.manual_seed(5)
    assert mgd(student, teacher).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("masked", "seen"), [(0.0, True), (1.0, False)])
def test_mgd_with_nothing_or_everything_masked(masked: float, seen: bool):
    mgd = MGD(2, 3, masked=masked)
    student, teacher = torch.randn(2, 2, 4, 4), torch.randn(2, 3, 4, 4)
    first, second = mgd.generate[0], mgd.generate[2]
    aligned = F.conv2d(student, mgd.align.weight, mgd.align.bias) if seen else torch.zeros(2, 3, 4, 4)
    hidden = F.conv2d(aligned, first.weight, first.bias, padding=1).clamp(min=0)
    generated = F.conv2d(hidden, second.weight, second.bias, padding=1)
    torch.testing.assert_close(mgd(student, teacher), (generated - teacher).square().sum() / 2)


def test_mgd_masks_about_its_share():
    mgd = MGD(1, 1, masked=0.3)
    mgd.generate = nn.Identity()
    kept = mgd(torch.ones(4, 1, 50, 50), torch.zeros(4, 1, 50, 50)).item() / 2500
    assert kept == pytest.approx(0.7, abs=0.02)  # 10,000 draws: four standard deviations


def test_mgd_aligns_only_where_channels_differ():
    assert isinstance(MGD(3, 3).align, nn.Identity)
    assert MGD(3, 5).align.weight.shape == (5, 3, 1, 1)


# ReviewKD


def normalized(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    shape = (1, -1, 1, 1)
    centred = (x - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + norm.eps).sqrt()
    return centred * norm.weight.view(shape) + norm.bias.view(shape)


def evaluated_review(inputs: list[int], outputs: list[int]) -> ReviewKD:
    """Its normalizations as after a training: with statistics and weights of their own."""
    review = ReviewKD(inputs, outputs, width=4).eval()
    for module in review.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                values.uniform_(0.5, 1.5)
    return review


def test_reviewkd_fuses_two_layers():
    review = evaluated_review([2, 3], [5, 6])
    student = [torch.randn(2, 2, 8, 8), torch.randn(2, 3, 4, 4)]
    teacher = [torch.randn(2, 5, 8, 8), torch.randn(2, 6, 4, 4)]
    pairs = zip(student, review.inner, strict=True)
    shallow, deep = (normalized(F.conv2d(x, inner[0].weight), inner[1]) for x, inner in pairs)
    above = enlarged(deep)
    attention = review.attention[0]
    both = torch.einsum("oi,bihw->bohw", attention.weight[:, :, 0, 0], torch.cat([shallow, above], 1))
    weights = 1 / (1 + torch.exp(-(both + attention.bias.view(1, 2, 1, 1))))
    fused = shallow * weights[:, 0].unsqueeze(1) + above * weights[:, 1].unsqueeze(1)
    expected = torch.zeros(())
    for x, outer, known in zip((fused, deep), review.outer, teacher, strict=True):
        expected = expected + reviewkd_hcl(normalized(F.conv2d(x, outer[0].weight, padding=1), outer[1]), known)
    torch.testing.assert_close(review(student, teacher), expected)


def test_reviewkd_sends_the_shallow_teachers_gradient_to_the_deep_layer():
    review = evaluated_review([2, 3], [5, 6])
    student = [torch.randn(2, 2, 8, 8), torch.randn(2, 3, 4, 4).requires_grad_()]
    teacher = [torch.randn(2, 5, 8, 8), torch.randn(2, 6, 4, 4)]
    gradients = []
    for known in (teacher[0], torch.randn(2, 5, 8, 8)):
        gradients += torch.autograd.grad(review(student, [known, teacher[1]]), student[1])
    assert not torch.equal(*gradients)


def test_reviewkd_refuses_unequal_numbers_of_layers():
    with pytest.raises(ValueError, match="reviewkd: 2 layers of the student and 1 of the teacher"):
        ReviewKD([2, 3], [5])


# Sizes of VID, MGD and ReviewKD


@pytest.mark.parametrize("name", ["vid", "mgd", "reviewkd"])
def test_the_students_map_is_brought_to_the_teachers_size(name: str):
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    review = evaluated_review([3], [5])
    losses = {
        "vid": VID(3, 5),
        "mgd": MGD(3, 5, masked=0.0),
        "reviewkd": lambda ours, theirs: review([ours], [theirs]),
    }
    loss = losses[name]
    torch.testing.assert_close(loss(enlarged(student), teacher), loss(student, teacher))
    # A smaller one is enlarged by repeating its pixels.
    large = enlarged(teacher)
    torch.testing.assert_close(loss(student, large), loss(enlarged(student), large))


# CRD

SAMPLES = 6
INDICES = torch.tensor([4, 0])


@pytest.fixture
def crd() -> CRD:
    return CRD(3, 5, SAMPLES, width=4, negatives=SAMPLES - 1, temperature=0.5)


def contrast(anchors: list[list[float]], bank: list[list[float]], temperature: float) -> float:
    """-sum log h(own) - sum log(1 - h(other)), h = e / (e + N / M), e over its mean times M; mean over the batch."""
    others = [[other for other in range(SAMPLES) if other != index] for index in INDICES.tolist()]
    drawn = [[index, *rest] for index, rest in zip(INDICES.tolist(), others, strict=True)]
    exponents = [
        [math.exp(dot(anchor, bank[place]) / temperature) for place in row]
        for anchor, row in zip(anchors, drawn, strict=True)
    ]
    constant = SAMPLES * sum(map(sum, exponents)) / sum(map(len, exponents))
    noise = (SAMPLES - 1) / SAMPLES
    total = 0.0
    for own, *rest in exponents:
        total -= math.log(own / constant / (own / constant + noise))
        total -= sum(math.log(1 - other / constant / (other / constant + noise)) for other in rest)
    return total / len(anchors)


def test_crd_contrasts_each_side_with_the_others_bank(crd: CRD, monkeypatch: pytest.MonkeyPatch):
    student, teacher = torch.randn(2, 3), torch.randn(2, 5)
    ours, theirs = units(crd.student(student)), units(crd.teacher(teacher))
    student_bank, teacher_bank = crd.bank.tolist()
    # The negatives by hand: the numbers 0 to 4 stand for every sample but the own one.
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.arange(SAMPLES - 1).expand(2, -1))
    expected = contrast(theirs, student_bank, 0.5) + contrast(ours, teacher_bank, 0.5)
    assert crd(student, teacher, INDICES).item() == pytest.approx(expected, rel=1e-5)


def test_crd_never_draws_the_sample_itself(crd: CRD, monkeypatch: pytest.MonkeyPatch):
    seen = []
    own = crd._contrast

    def watched(bank: int, embedding: Tensor, drawn: Tensor) -> Tensor:
        seen.append(drawn)
        return own(bank, embedding, drawn)

    monkeypatch.setattr(crd, "_contrast", watched)
    crd.negatives = 200
    crd(torch.randn(2, 3), torch.randn(2, 5), INDICES)
    for index, *others in seen[0].tolist():
        assert set(others) == set(range(SAMPLES)) - {index}
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0][:, 0], INDICES)


def test_crd_remembers_moving_averages_of_the_batch(crd: CRD):
    before = crd.bank.tolist()
    student, teacher = torch.randn(2, 3), torch.randn(2, 5)
    crd.momentum = 0.8
    crd(student, teacher, INDICES)
    for side, embeddings in enumerate((units(crd.student(student)), units(crd.teacher(teacher)))):
        expected = torch.tensor(before[side])
        for index, embedding in zip(INDICES.tolist(), embeddings, strict=True):
            mixed = [0.8 * a + 0.2 * b for a, b in zip(before[side][index], embedding, strict=True)]
            expected[index] = torch.tensor(units(torch.tensor([mixed]))[0])
        torch.testing.assert_close(crd.bank[side], expected)


def test_crd_fixes_its_constants_at_the_first_batch(crd: CRD):
    crd(torch.randn(2, 3), torch.randn(2, 5), INDICES)
    first = crd.scale.clone()
    crd(torch.randn(2, 3), torch.randn(2, 5), INDICES)
    assert (first > 0).all() and torch.equal(crd.scale, first)


def test_crd_draws_no_more_negatives_than_there_are_others():
    assert CRD(3, 5, 10, negatives=4096).negatives == 9


# SimilarityQueue


def test_similarity_queue_is_the_formula():
    """Cross entropy of the softmax over the own embedding of the teacher and the queue's."""
    seed = SimilarityQueue(3, 4, size=5, student_temperature=0.2, teacher_temperature=0.1)
    student, teacher = torch.randn(2, 3), torch.randn(2, 4)
    ours, theirs, queue = units(seed.project(student)), units(teacher), seed.queue.tolist()
    total = 0.0
    for s, t in zip(ours, theirs, strict=True):
        q = [math.exp(dot(s, other) / 0.2) for other in (t, *queue)]
        p = [math.exp(dot(t, other) / 0.1) for other in (t, *queue)]
        total -= sum(b / sum(p) * math.log(a / sum(q)) for a, b in zip(q, p, strict=True))
    assert seed(student, teacher).item() == pytest.approx(total / 2, rel=1e-5)


def test_similarity_queue_is_a_ring():
    seed = SimilarityQueue(3, 4, size=5)
    teacher = torch.randn(7, 4)
    expected = seed.queue.clone()
    for batch in (range(0, 3), range(3, 5), range(5, 7)):
        seed(torch.randn(len(batch), 3), teacher[list(batch)])
        for sample in batch:
            expected[sample % 5] = torch.tensor(units(teacher)[sample])
        torch.testing.assert_close(seed.queue, expected)
        assert int(seed.place) == (batch[-1] + 1) % 5


def test_similarity_queue_keeps_the_last_of_more_samples_than_places():
    seed = SimilarityQueue(3, 4, size=3)
    seed.place.fill_(2)
    teacher = torch.randn(8, 4)
    seed(torch.randn(8, 3), teacher)
    embeddings = torch.tensor(units(teacher))
    # Sample i goes to place (2 + i) % 3: the last at 0, 1 and 2 are samples 7, 5 and 6.
    torch.testing.assert_close(seed.queue, embeddings[[7, 5, 6]])
    assert int(seed.place) == 1


@pytest.mark.parametrize("name", ["crd", "queue"])
def test_memories_rest_in_evaluation(name: str, crd: CRD):
    module = (crd if name == "crd" else SimilarityQueue(3, 5, size=4)).eval()
    memory = (module.bank if name == "crd" else module.queue).clone()
    more = (INDICES,) if name == "crd" else ()
    assert module(torch.randn(2, 3), torch.randn(2, 5), *more).isfinite()
    assert torch.equal(module.bank if name == "crd" else module.queue, memory)
