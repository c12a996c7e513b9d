"""The commands about data: import, formats, audit."""

from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from streamer.stages import Detector

__all__ = ["data_app"]

data_app = typer.Typer(help="Import corpora and look into them.", no_args_is_help=True)


@data_app.command("import")
def import_data(
    kind: Annotated[str, typer.Argument(help="Format; `data formats` lists them.")],
    source: Annotated[Path, typer.Argument(help="File or folder of the corpus.")],
    out: Annotated[Path, typer.Option("--out", metavar="CACHE", help="Cache to write.")],
    detector: Annotated[
        Path | None, typer.Option("--detector", metavar="ONNX", help="YuNet's model file.")
    ] = None,
    near: Annotated[
        bool,
        typer.Option(
            "--near/--equal",
            help="Leave pictures out of validation and test that look like one of another split, "
            "or only those that are equal to one.",
        ),
    ] = True,
) -> None:
    """Read a corpus in one of the public formats, find the eyes and write a cache."""
    from training.data.sources import make_cache

    counter = _Counter("pictures")
    made = make_cache(kind, source, out, _detector(detector), counter, near=near)
    alone = "each a group of its own"
    groups = alone if made.groups == made.rows else f"{made.groups} groups that no split cuts"
    typer.echo(f"{out}: {made.rows} rows, {groups}")
    if made.leaks:
        typer.echo(f"{made.leaks} of them show a picture of another split; scores leave them out")


@data_app.command("formats")
def formats() -> None:
    """List the formats that can be imported."""
    from training.data.sources import FORMATS

    for name, words in FORMATS.items():
        typer.echo(f"{name:16} {words}")


@data_app.command("audit")
def audit_data(
    data: Annotated[Path, typer.Argument(help="Cache of labelled faces.")],
    out: Annotated[Path, typer.Option("--out", metavar="HTML", help="Page; JSON beside it.")],
    learn_from: Annotated[
        int,
        typer.Option(
            "--learn-from",
            help="Pictures for the learning curve and the doubtful labels; 0: leave both out.",
            min=0,
        ),
    ] = 6000,
) -> None:
    """Count classes, duplicates, leaks and doubtful labels; plot coverage; give advice."""
    from training import report
    from training.audit_page import audit_sections
    from training.data import cache
    from training.data.advice import advice
    from training.data.audit import audit
    from training.outputs import file_place

    file_place(out)
    found = audit(cache.load(data).faces, learn_from=learn_from)
    report.write(out, f"Audit of {data.name}", audit_sections(found), found)
    pairs = ", ".join(f"{k} {v}" for k, v in sorted(found.near_pairs.items())) or "none"
    typer.echo(f"{found.faces} faces; near-duplicate pairs: {pairs}")
    for sentence in advice(found):
        typer.echo(f"- {sentence}")
    typer.echo(f"{out}: written")


@data_app.command("mesh")
def mesh_data(
    data: Annotated[Path, typer.Argument(help="Cache of labelled faces.")],
    out: Annotated[Path, typer.Option("--out", metavar="MESH", help="File to write.")],
    network: Annotated[
        Path | None,
        typer.Option(
            "--network", metavar="TFLITE", help="face_landmark.tflite; found or fetched without it."
        ),
    ] = None,
) -> None:
    """Find the mesh of every face, for a teacher that reads shapes: distill --mesh."""
    import numpy as np

    from streamer import assets
    from streamer.errors import ConfigError
    from training import mesh
    from training.data import cache
    from training.outputs import file_place

    file_place(out)
    faces = cache.load(data).faces
    asset = assets.ASSETS["facemesh"]
    if network is None:
        network = assets.install(asset, assets.default_folder(), report=_note)
    try:
        content = network.read_bytes()
    except OSError as error:
        raise ConfigError(f"{network}: cannot be read: {error.strerror}") from None
    if sha256(content).hexdigest() != asset.sha256:
        raise ConfigError(f"{network}: is not the {asset.file} that `streamer assets list` names")
    found = mesh.find_mesh(faces, content, asset.sha256, _Counter("pictures"))
    mesh.save(out, found)
    known = int(np.isfinite(found.points_NM3[:, 0, 0]).sum())
    typer.echo(f"{out}: {known} meshes of {int((faces.split_N != 'test').sum())} pictures")


def _note(line: str) -> None:
    typer.echo(f"streamer-train: {line}", err=True)


def _detector(path: Path | None) -> Detector | None:
    if path is None:
        return None
    from streamer.detect.yunet import YuNet

    return YuNet(path)


class _Counter:
    """Shows how many are done, on one line of a terminal."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __call__(self, done: int) -> None:
        if sys.stderr.isatty() and done % 100 == 0:
            typer.echo(f"\r{done} {self._what}", err=True, nl=False)
