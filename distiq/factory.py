"""Calls `file.py:function` named by a recipe: the only thing in a recipe that becomes code."""

import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

from distiq.errors import UserError


def call_factory(reference: str, options: dict[str, Any], where: str) -> Any:
    """Imports the file and calls its function with `options`.

    Raises:
        UserError: no such file or function, the file does not import, or the function does not take the options.
    """
    file, _, name = reference.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise UserError(f"{where}: no such file: {path}; correct the path before the colon")
    spec = importlib.util.spec_from_file_location(f"distiq_factory_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{where}: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look their module up by name
    sys.path.insert(0, str(path.parent.resolve()))  # the file may import its neighbours
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise UserError(f"{where}: {path} does not import: {error}") from error
    finally:
        sys.path.pop(0)
    function = getattr(module, name, None)
    if not callable(function):
        own = {key: value for key, value in vars(module).items() if getattr(value, "__module__", "") == spec.name}
        functions = [key for key, value in own.items() if inspect.isfunction(value) and key[0] != "_"]
        raise UserError(f'{where}: {path} has no function "{name}"; it has: {", ".join(functions) or "none"}')
    try:
        inspect.signature(function).bind(**options)
    except TypeError as error:
        raise UserError(f"{where}: {reference} cannot be called with {sorted(options)}: {error}") from error
    return function(**options)
