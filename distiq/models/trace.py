"""trace(): a network as a graph with a free batch; an error names the line that breaks the trace, and the remedy."""

import copy
import linecache
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from distiq.errors import UserError, first_line
from distiq.models.layout import dynamic_shapes, for_longer, make_contiguous, plain_copy
from distiq.models.signature import Positional, Tensors, each, positional, tensors_of

NOT_THE_USER_S = ("/torch/", "/sympy/", f"{Path(__file__).parents[1]}/")
FROZEN = "Constraints violated"


def trace(network: Positional, free: Sequence[dict[int, Any]]) -> ExportedProgram:
    """The network's graph by `torch.export`.

    Args:
        free: of each input the dimensions that another call may have otherwise; see `free_dimensions`.

    Raises:
        UserError: an operation depends on the data's values, or the network fixes a free dimension to one number.
    """
    shapes = dynamic_shapes(network, free)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(network.module, network.inputs, dynamic_shapes=shapes)
    except Exception as error:  # torch.export raises many kinds, none of them public
        if FROZEN in str(error) and (longer := for_longer(free)) != list(free):
            return trace(network, longer)
        raise UserError(why_untraced(error, network, shapes)) from error


def copied(model: nn.Module, example: Tensors) -> Positional:
    """A copy of a network on the CPU, in eval mode and with standard strides, in the form that exporters take.

    Raises:
        UserError: it fails on the example, has no such inputs, or returns something other than tensors.
    """
    copy_of_it = make_contiguous(copy.deepcopy(model).cpu().eval())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return positional(copy_of_it, each(plain_copy, example))
    except UserError:
        raise
    except Exception as error:  # whatever the network raises
        shapes = ", ".join(str(tuple(one.shape)) for one in tensors_of(example))
        raise UserError(
            f"the network fails on an input of shape {shapes}: {first_line(error)}{_where(error)}"
        ) from error


def why_untraced(error: BaseException, network: Positional, shapes: tuple[Any, ...]) -> str:
    """What broke a trace, where in the user's code, and what to write there, from torch's long message."""
    if FROZEN in str(error):
        place = _freezing_line(network, shapes)
        condition = re.search(r"satisfy the generated guard (.+?)\.?$", str(error), re.MULTILINE)
        if condition and not place:
            return (
                f"the network computes otherwise at some sizes of batch or length (where not {condition[1]}); files"
                " take any: write that part without a condition on a size, or take another network"
            )
        return (
            f"the network takes one size of batch (or length) alone{f': {place} fixes it' if place else ''}; files take"
            " any: write x.shape[0], or -1 in a reshape, in place of len(x), int(...), a loop over samples or a number"
        )
    reason = f"{first_line(error)}{_where(error)}"
    return (
        f"the network cannot be traced by torch.export: {reason}; rewrite that operation with tensor operations that do"
        " not depend on the data's values"
    )


def _where(error: BaseException) -> str:
    """The line of the user's code that an error names, or that it passed through, in parentheses."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    place = next((line for line in reversed(lines) if line.startswith("File ") and "/torch/" not in line), "")
    code = lines[lines.index(place) + 1] if place and lines.index(place) + 1 < len(lines) else ""
    frame = error.__traceback__
    while frame is not None:
        name = frame.tb_frame.f_code.co_filename
        if not place and _is_of_the_user(name):
            place = f"{name}, line {frame.tb_lineno}"
        frame = frame.tb_next
    return f" ({' '.join((place, code)).strip()})" if place else ""


def _freezing_line(network: Positional, shapes: tuple[Any, ...]) -> str:
    """The line of the user's code at which a free dimension becomes a number; empty where it is not seen."""
    lines: list[str] = []
    with _watching(lines), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.export.export(network.module, network.inputs, dynamic_shapes=shapes)
        except Exception:  # the one that is to be explained
            return lines[0] if lines else ""
    return ""


@contextmanager
def _watching(lines: list[str]) -> Iterator[None]:
    """Notes where torch replaces a symbol of a shape by a number, which its message does not say."""
    before: Any = getattr(ShapeEnv, "_set_replacement", None)

    def noting(self: ShapeEnv, symbol: Any, target: Any, message: str) -> None:
        if getattr(target, "is_number", False) and (line := _user_line()):
            lines.append(line)
        before(self, symbol, target, message)

    if before is None:
        yield
        return
    ShapeEnv._set_replacement = noting  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        ShapeEnv._set_replacement = before  # type: ignore[method-assign]


def _user_line() -> str:
    """The innermost line of Python that is neither torch's nor distiq's."""
    frame: Any = sys._getframe(1)
    while frame is not None and not _is_of_the_user(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None or "forward" not in frame.f_code.co_name:
        return ""
    file, number = frame.f_code.co_filename, frame.f_lineno
    return f'File "{file}", line {number}, in {frame.f_code.co_name}: {linecache.getline(file, number).strip()}'


def _is_of_the_user(file: str) -> bool:
    return not file.startswith("<") and not any(part in file for part in NOT_THE_USER_S) and "contextlib" not in file
