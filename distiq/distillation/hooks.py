"""Reads activations by module path, with hooks that are always removed."""

import contextlib
import difflib
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from distiq.errors import UserError


@contextlib.contextmanager
def feature_hooks(model: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """While open, each run of the model leaves the outputs of the named modules in the yielded dictionary.

    Of a module that gives several, such as an attention, it is the first.

    Raises:
        UserError: the model has no module of that path.
    """
    modules = dict(model.named_modules())
    seen: dict[str, Tensor] = {}

    def keep(path: str):  # type: ignore[no-untyped-def]
        def hook(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            seen[path] = output[0] if isinstance(output, tuple) else output

        return hook

    with contextlib.ExitStack() as stack:
        for path in dict.fromkeys(paths):
            if path not in modules:
                near = difflib.get_close_matches(path, modules, n=3) or [name for name, _ in model.named_children()]
                raise UserError(f'the model has no module "{path}"; near it: {", ".join(near)}')
            handle = modules[path].register_forward_hook(keep(path))
            stack.callback(handle.remove)
        yield seen
