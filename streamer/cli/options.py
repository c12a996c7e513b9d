"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "CacheOption",
    "ClientKeyOption",
    "ConfigOption",
    "ConnectOption",
    "FolderOption",
    "MirrorOption",
    "ServerKeyOption",
]

ConfigOption = Annotated[
    Path,
    # readable: whether it can be read is ours to say, with exit code 78 and not 2
    typer.Option("--config", "-c", metavar="FILE", readable=False, help="The TOML configuration."),
]
FolderOption = Annotated[
    str, typer.Option("--assets", metavar="DIR", help="Folder of the model files.")
]
CacheOption = Annotated[
    str, typer.Option("--cache", metavar="DIR", help="Folder of the compiled engines.")
]
MirrorOption = Annotated[
    str,
    typer.Option("--mirror", metavar="DIR|URL", help="Where to look first, in a closed network."),
]

ConnectOption = Annotated[str, typer.Option(metavar="ADDR", help="The daemon's event address.")]
ServerKeyOption = Annotated[
    str, typer.Option(metavar="FILE", help="The daemon's public CURVE certificate.")
]
ClientKeyOption = Annotated[
    str, typer.Option(metavar="FILE", help="Your own secret CURVE certificate.")
]
