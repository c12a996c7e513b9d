"""A configuration written as the TOML file that ``streamer run`` reads."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.config import Config

__all__ = ["toml_of", "write"]


def write(config: Config, path: Path) -> None:
    """Write a configuration that only its owner can read; whoever reads it sees old or new."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(toml_of(config))
    new.replace(path)


def toml_of(config: Config) -> str:
    """Return a configuration as TOML text."""
    tables = msgspec.to_builtins(config)
    lines = []
    for name, table in tables.items():
        for one in table if isinstance(table, (list, tuple)) else (table,):
            lines.append(f"[[{name}]]" if isinstance(table, (list, tuple)) else f"[{name}]")
            lines += [f"{key} = {_value(value)}" for key, value in one.items()]
    return "\n".join([*lines, ""])


def _value(value: Any) -> str:
    """Write a scalar; JSON's forms are TOML's, but for DEL, which TOML wants escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
