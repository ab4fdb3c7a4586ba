"""What processes that train together share in a step, so that their losses and statistics are those of one process."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn

from distiq.training import processes


def gathered(rows: Tensor, whole: int | None) -> Tensor:
    """The rows (B, ...) of the common batch, in its order, from each process's own: every n-th, from its rank on.

    A process that computes the loss of the whole batch from them gets the gradient of its own rows times the number of
    processes; averaged over the processes, as data-parallel training does, that is the gradient of one process.

    Args:
        whole: B, or None if this process's own rows are all.
    """
    return rows if whole is None else _Gathered.apply(rows, whole)  # type: ignore[no-untyped-call]


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(rows: Tensor, whole: int) -> Tensor:
        number = distributed.get_world_size()
        longest = -(-whole // number)
        own = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])]).contiguous()
        parts = [torch.empty_like(own) for _ in range(number)]
        distributed.all_gather(parts, own)
        return torch.stack(parts, 1).flatten(0, 1)[:whole]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        total = gradient.float().contiguous().clone()
        distributed.all_reduce(total)
        own = total[distributed.get_rank() :: distributed.get_world_size()]
        return own.to(gradient.dtype), None


class _Shared(nn.modules.batchnorm._BatchNorm):
    """Batch norm whose statistics are those of the samples of all processes (torch's own is for GPUs alone)."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.running_mean is None or self.running_var is None:
            return super().forward(x)
        dimensions = [0, *range(2, x.ndim)]
        wide = x.float()
        variance, mean = torch.var_mean(wide, dimensions, correction=0)
        number = torch.full_like(mean, wide.numel() / wide.shape[1])
        numbers, means, variances = gathered(
            torch.stack([number, mean, variance]).unsqueeze(0), distributed.get_world_size()
        ).unbind(1)
        total = numbers.sum(0)
        mean = (numbers * means).sum(0) / total
        variance = (numbers * (variances + (means - mean).square())).sum(0) / total
        self._follow(mean.detach(), (variance * total / (total - 1)).detach())
        scale = torch.rsqrt(variance + self.eps)
        scale = scale * self.weight if self.affine else scale
        shift = self.bias - mean * scale if self.affine else -mean * scale
        shape = (1, -1, *[1] * (x.ndim - 2))
        return torch.addcmul(shift.view(shape), wide, scale.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class _Shared1d(_Shared, nn.BatchNorm1d):
    pass


class _Shared2d(_Shared, nn.BatchNorm2d):
    pass


SHARED: dict[type[nn.Module], type[nn.Module]] = {nn.BatchNorm1d: _Shared1d, nn.BatchNorm2d: _Shared2d}


@contextlib.contextmanager
def shared_statistics(model: nn.Module) -> Iterator[None]:
    """While several processes train the model, its batch norms see the whole batch."""
    modules = [module for module in model.modules() if type(module) in SHARED] if processes.count() > 1 else []
    kinds = [type(module) for module in modules]
    try:
        for module in modules:
            module.__class__ = SHARED[type(module)]
        yield
    finally:
        for module, kind in zip(modules, kinds, strict=True):
            module.__class__ = kind
