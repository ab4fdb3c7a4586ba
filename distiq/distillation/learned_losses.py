"""Losses with parameters or a memory of their own. They train beside the student and are then dropped.

Each is a module whose `forward` takes what its docstring says and returns a scalar in float32. Under
autocast their own layers run in its precision; the loss itself does not.
"""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distiq.distillation.feature_losses import reviewkd_hcl
from distiq.tasks.precision import widened


class VID(nn.Module):
    """Variational information distillation: Gaussian log likelihood of the teacher's map given the student's.

    Ahn et al. 2019, "Variational information distillation for knowledge transfer" (arXiv:1904.05835), equations 4 to
    6, without the constant: three 1x1 convolutions give the mean, one softplus parameter per channel the variance.

    Shapes: (B, inputs, H, W), (B, outputs, H', W') -> scalar; the student's map is brought to the teacher's size.
    """

    def __init__(self, inputs: int, outputs: int, *, variance: float = 5.0) -> None:
        super().__init__()
        widths = (inputs, outputs, outputs, outputs)
        layers: list[nn.Module] = []
        for one, other in itertools.pairwise(widths):
            layers += [nn.Conv2d(one, other, 1, bias=False), nn.ReLU()]
        self.mean = nn.Sequential(*layers[:-1])
        self.raw = nn.Parameter(torch.full((outputs,), math.log(math.expm1(variance))))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        mean, target = widened(self.mean(_to_size(student, teacher.shape[2:]))), widened(teacher)
        variance = F.softplus(self.raw).add(1e-5).view(1, -1, 1, 1)
        return 0.5 * ((mean - target).square() / variance + variance.log()).mean()


class MGD(nn.Module):
    """Masked generative distillation: the student's map, masked at random, learns to generate the teacher's.

    Yang et al. 2022, "Masked generative distillation" (arXiv:2205.01529), equations 1 to 3: squared differences,
    summed over a sample's elements, batch mean. The sum is large: the paper weighs it by 7e-5 for classification.

    Shapes: (B, inputs, H, W), (B, outputs, H', W') -> scalar.
    """

    def __init__(self, inputs: int, outputs: int, *, masked: float = 0.5) -> None:
        super().__init__()
        self.masked = masked
        self.align: nn.Module = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.generate = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1)
        )

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        aligned = self.align(_to_size(student, teacher.shape[2:]))
        kept = torch.rand(len(aligned), 1, *aligned.shape[2:], device=aligned.device) >= self.masked
        generated = widened(self.generate(aligned * kept))
        return (generated - widened(teacher)).square().sum() / len(teacher)


class ReviewKD(nn.Module):
    """Knowledge review: the student's layers, fused from the deepest to the shallowest, follow the teacher's.

    Chen et al. 2021, "Distilling knowledge via knowledge review" (arXiv:2104.09044), sections 3.3 and 3.4: attention
    based fusion of each layer with what the deeper ones gave, compared by the hierarchical context loss.

    Args:
        inputs: channels of the student's layers, shallowest first. outputs: those of the teacher's.
        width: channels inside the fusion.

    Shapes: student's maps and teacher's maps, shallowest first, one per entry of `inputs` -> scalar.
    """

    def __init__(self, inputs: Sequence[int], outputs: Sequence[int], *, width: int = 64) -> None:
        super().__init__()
        if len(inputs) != len(outputs):
            raise ValueError(f"reviewkd: {len(inputs)} layers of the student and {len(outputs)} of the teacher")
        self.inner = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)) for channels in inputs
        )
        self.outer = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
            for channels in outputs
        )
        self.attention = nn.ModuleList(nn.Conv2d(2 * width, 2, 1) for _ in inputs[:-1])

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        deeper: Tensor | None = None
        terms = []
        for level in reversed(range(len(self.inner))):
            own = self.inner[level](student[level])
            if deeper is not None:
                deeper = F.interpolate(deeper, own.shape[2:], mode="nearest")
                weights = torch.sigmoid(self.attention[level](torch.cat([own, deeper], 1)))
                own = own * weights[:, :1] + deeper * weights[:, 1:]
            deeper = own
            target = teacher[level]
            terms.append(reviewkd_hcl(self.outer[level](_to_size(own, target.shape[2:])), target))
        return torch.stack(terms).sum()


class CRD(nn.Module):
    """Contrastive representation distillation with a memory bank.

    Tian, Krishnan and Isola 2020, "Contrastive representation distillation" (arXiv:1910.10699), equations 17 to 19:
    a sample's student embedding is drawn near its own teacher embedding and far from `negatives` others', and the
    other way round. Negatives are drawn from the whole bank (the paper's unlabelled variant); the bank holds moving
    averages of the unit embeddings.

    Args:
        inputs, outputs: widths of the student's and the teacher's embeddings. samples: of the training split.

    Shapes: (B, inputs), (B, outputs), indices (B,) -> scalar.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        samples: int,
        *,
        width: int = 128,
        negatives: int = 4096,
        temperature: float = 0.07,
        momentum: float = 0.5,
    ) -> None:
        super().__init__()
        self.student, self.teacher = nn.Linear(inputs, width), nn.Linear(outputs, width)
        self.negatives, self.temperature, self.momentum = min(negatives, samples - 1), temperature, momentum
        bound = 1 / math.sqrt(width / 3)
        self.bank: Tensor
        self.scale: Tensor
        self.register_buffer("bank", torch.empty(2, samples, width).uniform_(-bound, bound))
        self.register_buffer("scale", torch.full((2,), -1.0))

    def forward(self, student: Tensor, teacher: Tensor, indices: Tensor) -> Tensor:
        indices = indices.to(self.bank.device)
        own = F.normalize(widened(self.student(student)), dim=1)
        target = F.normalize(widened(self.teacher(teacher)), dim=1)
        samples = self.bank.shape[1]
        others = torch.randint(samples - 1, (len(indices), self.negatives), device=indices.device)
        others = others + (others >= indices.unsqueeze(1))  # every sample but the own one
        drawn = torch.cat([indices.unsqueeze(1), others], 1)
        with torch.autocast(student.device.type, enabled=False):
            terms = [self._contrast(number, own if number else target, drawn) for number in (0, 1)]
        if self.training:
            self._remember(indices, torch.stack([own, target]).detach())
        return terms[0] + terms[1]

    def _contrast(self, bank: int, embedding: Tensor, drawn: Tensor) -> Tensor:
        """Noise contrastive estimation of the first of the drawn entries; bank 0 is the student's, 1 the teacher's."""
        scores = torch.exp(torch.einsum("bd,bkd->bk", embedding, self.bank[bank][drawn]) / self.temperature)
        samples = self.bank.shape[1]
        if self.scale[bank] < 0:  # the constant is that of the first batch, as in the authors' code
            self.scale[bank] = scores.detach().mean() * samples
        scores = scores / float(self.scale[bank])
        noise = self.negatives / samples
        right = torch.log(scores[:, 0] / (scores[:, 0] + noise + 1e-7))
        wrong = torch.log(noise / (scores[:, 1:] + noise + 1e-7))
        return -(right.sum() + wrong.sum()) / len(embedding)

    @torch.no_grad()
    def _remember(self, indices: Tensor, embeddings: Tensor) -> None:
        mixed = self.momentum * self.bank[:, indices] + (1 - self.momentum) * embeddings
        self.bank[:, indices] = F.normalize(mixed, dim=2)


class SimilarityQueue(nn.Module):
    """SEED: the student's similarities to a queue of earlier teacher embeddings follow the teacher's own.

    Fang et al. 2021, "SEED: self-supervised distillation for visual representation" (arXiv:2101.04731), equations 4
    to 6. Label-free. The teacher's embedding of the sample itself stands first in the queue.

    Shapes: (B, inputs), (B, outputs) -> scalar; the student is projected to the teacher's width.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        size: int = 4096,
        student_temperature: float = 0.2,
        teacher_temperature: float = 0.07,
    ) -> None:
        super().__init__()
        self.project = nn.Linear(inputs, outputs)
        self.temperatures = (student_temperature, teacher_temperature)
        self.queue: Tensor
        self.place: Tensor
        self.register_buffer("queue", F.normalize(torch.randn(size, outputs), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        own = F.normalize(widened(self.project(student)), dim=1)
        target = F.normalize(widened(teacher), dim=1)
        with torch.autocast(student.device.type, enabled=False):
            queue = self.queue.clone()  # it changes below, before the gradient is computed
            (log_student, log_teacher) = (
                (torch.cat([(x * target).sum(1, keepdim=True), x @ queue.t()], 1) / temperature).log_softmax(1)
                for x, temperature in zip((own, target), self.temperatures, strict=True)
            )
        if self.training:
            self._enqueue(target)
        return -(log_teacher.exp() * log_student).sum(1).mean()

    @torch.no_grad()
    def _enqueue(self, embeddings: Tensor) -> None:
        places = (self.place + torch.arange(len(embeddings), device=self.place.device)) % len(self.queue)
        size = len(self.queue)  # of more samples than places, the last: writing a place twice has no order on a GPU
        self.queue[places[-size:]] = embeddings[-size:]
        self.place.copy_((self.place + len(embeddings)) % len(self.queue))


def _to_size(features: Tensor, size: Sequence[int]) -> Tensor:
    return features if features.shape[2:] == tuple(size) else F.adaptive_avg_pool2d(features, (size[0], size[1]))
