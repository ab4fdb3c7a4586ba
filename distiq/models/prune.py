"""prune(): a convolution network with fewer channels, which starts from the weights of the channels that stay.

Channels that belong together, such as those that a shortcut adds, are found in the exported graph and leave together.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from distiq.errors import UserError, first_line
from distiq.models.channels import Channels, Groups, Layout, read, resolved
from distiq.models.signature import read_outputs, tensors_of

MULTIPLE = 8  # of channels that integer kernels like
Importance = Callable[[nn.Module], Tensor]
"""The loss of a network on samples, a scalar whose gradient says what its channels are worth."""


def prune(
    model: nn.Module,
    example: Tensor,
    keep: float,
    importance: Importance | None = None,
    multiple: int = MULTIPLE,
    of: Literal["channels", "macs"] = "channels",
) -> nn.Module:
    """A copy of the network without its least important channels.

    The importance of a channel is the squared first-order estimate of how the loss changes without it, summed over all
    weights of its group: Molchanov et al. 2019, "Importance estimation for neural network pruning" (arXiv:1906.10771),
    equation 8. Channels of the outputs, and those that an operation reads which is not understood, all stay.

    Args:
        example: an input (1, ...).
        keep: the share that stays.
        of: of the channels of every group; or of the multiply-adds of the whole network, where those channels leave
            first that save most for what they are worth.
        importance: the loss; by default the size of the weights decides.
        multiple: every group keeps a multiple of so many, and at least so many, or all.

    Raises:
        UserError: the network cannot be traced, no channel can leave, or it does not run with fewer.
    """
    if not 0 < keep < 1:
        raise UserError(f"keep_{of} = {keep:g}: give the share of the {of} that stay, between 0 and 1")
    if tied := _tied(model):
        raise UserError(
            f"keep_{of}: {' and '.join(tied)} are one tensor, of which channels would leave in one place alone; give"
            " each its own"
        )
    smaller = copy.deepcopy(model).cpu().eval()
    groups = read(smaller, example)
    roots = groups.roots()
    worth = _worth(smaller, groups, importance)
    if of == "macs":
        counts = _counts_of_macs(smaller, groups, worth, keep, multiple, importance is not None)
    else:
        counts = {root: max(multiple, round(root.size * keep / multiple) * multiple) for root in roots}
    kept = {root: worth[root].topk(min(root.size, counts[root])).indices.sort().values for root in roots}
    if all(len(kept[root]) == root.size for root in roots):
        raise UserError(
            f"keep_{of}: no channel of this network can leave: each is an output, is read by an operation that is"
            f" not understood, or its group has no more than {multiple}"
        )
    _slice(smaller, groups, kept)
    try:
        with torch.no_grad():
            shapes = [_shapes(network(example)) for network in (copy.deepcopy(model).cpu().eval(), smaller)]
    except Exception as error:  # whatever the network raises
        raise UserError(
            f"keep_{of}: the network does not run with fewer channels ({first_line(error)}); its forward names a"
            " number of channels: take x.shape[1] there"
        ) from error
    if shapes[0] != shapes[1]:
        raise UserError(f"keep_{of}: with fewer channels the network gives {shapes[1]}, not {shapes[0]}")
    return smaller


def _shapes(returned: object) -> str:
    """The shapes of all outputs of a network, in words."""
    return ", ".join(str(tuple(one.shape)) for one in tensors_of(read_outputs(returned)))


def _tied(model: nn.Module) -> list[str]:
    """The names of a parameter that has several, in modules of which each has its own; empty where none has."""
    names: dict[int, list[str]] = {}
    for place, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            names.setdefault(id(parameter), []).append(f"{place}.{name}".lstrip("."))
    return next((several for several in names.values() if len(several) > 1), [])


# Which channels stay --------------------------------------------------------------------------------------------------


def _worth(model: nn.Module, groups: Groups, importance: Importance | None) -> dict[Channels, Tensor]:
    """Of each group what its channels are worth, (channels,)."""
    tensors = dict(model.named_parameters(remove_duplicate=False))
    if importance is not None:
        model.zero_grad()
        importance(model).backward()
    worth: dict[Channels, Tensor] = {}
    for use in groups.uses:
        weight = tensors.get(use.name)
        if weight is None:
            continue
        others = [dimension for dimension in range(weight.ndim) if dimension != use.dimension]
        if importance is None:
            each = weight.detach().square()
        else:
            gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
            each = weight.detach() * gradient
        each = each.sum(others) if others else each
        each = each if importance is None else each.square()
        start = 0
        for segment in resolved(use.layout):
            part = each[start : start + segment.size].view(segment.channels.size, segment.repeat).sum(1)
            root = segment.channels
            worth[root] = worth.get(root, torch.zeros(root.size)) + part
            start += segment.size
    model.zero_grad()
    return worth


def _counts_of_macs(
    model: nn.Module, groups: Groups, worth: dict[Channels, Tensor], keep: float, multiple: int, is_comparable: bool
) -> dict[Channels, int]:
    """How many channels of each group stay, so that no more than a share of the multiply-adds does: again and again
    those of the group leave that are worth least for what they save.

    Args:
        is_comparable: worths of different groups can be compared; else each is a share of its group's.
    """
    counts = {root: root.size for root in groups.roots()}
    gone = {
        root: torch.cat([torch.zeros(1), worth[root].sort().values.cumsum(0)])
        / (1 if is_comparable else worth[root].sum())
        for root in counts
    }
    products = _products(model, groups)
    whole = now = _macs(products, counts)
    while counts and now > keep * whole:
        prices = {}
        for root, count in counts.items():
            if count > multiple:
                fewer = (count - 1) // multiple * multiple
                after = _macs(products, {**counts, root: fewer})
                lost = gone[root][root.size - fewer] - gone[root][root.size - count]
                prices[root] = (float(lost) / max(now - after, 1), fewer, after)
        if not prices:
            raise UserError(
                f"keep_macs = {keep:g}: with {multiple} channels in every group {now / whole:.2g} of the multiply-adds"
                " stay; give no less"
            )
        root = min(prices, key=lambda one: prices[one][0])
        _, counts[root], now = prices[root]
    return counts


Products = Sequence[tuple[float, Sequence[Layout]]]
"""Of each weight of a convolution or layer its multiply-adds by the sizes of the channels that run along it."""


def _products(model: nn.Module, groups: Groups) -> Products:
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    along = dict[str, dict[int, Layout]]()
    for use in groups.uses:
        along.setdefault(use.name, {})[use.dimension] = resolved(use.layout)
    return [
        (
            rows * math.prod(size for at, size in enumerate(tensors[name].shape) if at not in along.get(name, {})),
            tuple(along.get(name, {}).values()),
        )
        for name, rows in groups.rows.items()
    ]


def _macs(products: Products, counts: dict[Channels, int]) -> float:
    """Multiply-adds of the convolutions and linear layers of which so many channels stay."""
    return sum(
        each
        * math.prod(sum(counts.get(one.channels, one.channels.size) * one.repeat for one in layout) for layout in along)
        for each, along in products
    )


def _slice(model: nn.Module, groups: Groups, kept: dict[Channels, Tensor]) -> None:
    """Takes out of the module's parameters and buffers what does not stay."""
    done: set[tuple[str, int]] = set()
    for use in groups.uses:
        if (use.name, use.dimension) in done:
            continue
        done.add((use.name, use.dimension))
        path, _, name = use.name.rpartition(".")
        owner = model.get_submodule(path)
        value = getattr(owner, name)
        smaller = value.detach().index_select(use.dimension, _positions(use.layout, kept))
        if isinstance(value, nn.Parameter):
            setattr(owner, name, nn.Parameter(smaller, requires_grad=value.requires_grad))
        else:
            owner.register_buffer(name, smaller, persistent=name not in owner._non_persistent_buffers_set)
    for module in model.modules():
        _rename(module)


def _positions(layout: Layout, kept: dict[Channels, Tensor]) -> Tensor:
    """The positions of a dimension that stay."""
    parts, start = [], 0
    for segment in resolved(layout):
        numbers = kept.get(segment.channels, torch.arange(segment.channels.size))
        inside = numbers.unsqueeze(1) * segment.repeat + torch.arange(segment.repeat)
        parts.append(start + inside.flatten())
        start += segment.size
    return torch.cat(parts)


def _rename(module: nn.Module) -> None:
    """Says in a module's own fields how many channels it has now."""
    match module:
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            outputs, inputs = module.weight.shape[:2]
            if module.groups > 1 and inputs == 1:
                module.groups = outputs * module.groups // module.out_channels
            module.out_channels, module.in_channels = outputs, inputs * module.groups
        case nn.Linear():
            module.out_features, module.in_features = module.weight.shape
        case nn.modules.batchnorm._BatchNorm() if module.running_mean is not None:
            module.num_features = len(module.running_mean)
        case nn.PReLU():
            module.num_parameters = len(module.weight)
