"""Settings as TOML: with every key explained, or as they are."""

import json
import re
from typing import Any

from distiq.recipe.part import Part


def described(values: Part, path: str) -> str:
    """Every key of the part and of those within, with its value and its meaning; `path` is the part's own key."""
    lines, tables = [], []
    for key, field in type(values).model_fields.items():
        value = getattr(values, key)
        if isinstance(value, Part):
            doc = (type(value).__doc__ or "").strip().splitlines()[0]
            table = f"{path}.{key}" if path else key
            tables.append(f"\n# {doc}\n[{table}]\n{described(value, table)}")
        else:
            lines.append(_line(key, value, field.description))
    return "\n".join(lines + tables)


def _line(key: str, value: Any, description: str | None) -> str:
    if value == () or value is None:  # tables of that name may follow, or nothing is set
        text = f"# {key} = {written(value) if value == () else ''}"
    else:
        text = f"{key} = {written(value)}"
    return f"{text:<32}# {description}" if description else text


def written(value: Any) -> str:
    """A value as TOML writes it."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            # JSON's escapes are TOML's, but for surrogate pairs (so nothing is made ASCII) and DEL.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case dict():
            return "{" + ", ".join(f"{_key(key)} = {written(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(written(item) for item in value) + "]"
        case Part():
            return written(value.model_dump())
        case _:
            return str(value)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else written(key)


def plain(tree: dict[str, Any], path: str) -> str:
    """The values alone, of a part's `model_dump`; `path` is the part's own key."""
    tables = {key: value for key, value in tree.items() if isinstance(value, dict) and key != "options"}
    lines = [
        f"{_key(key)} = {written(value)}" for key, value in tree.items() if key not in tables and value is not None
    ]
    for key, value in tables.items():
        name = f"{path}.{_key(key)}" if path else _key(key)
        lines.append(f"\n[{name}]\n{plain(value, name)}")
    return "\n".join(lines)
