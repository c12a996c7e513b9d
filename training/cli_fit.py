"""``streamer-train fit``, ``distill`` and ``soup``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamer.errors import ConfigError

if TYPE_CHECKING:
    from training.data.faces import FaceSet
    from training.geometry import Geometry
    from training.recipes import TrainConfig

__all__ = ["distill", "fit", "soup"]

Faces = Annotated[Path, typer.Option("--data", metavar="CACHE", help="Cache of labelled faces.")]
Changes = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value, e.g. optim.lr=0.001."),
]
Begin = Annotated[
    Path | None,
    typer.Option("--from", metavar="CHECKPOINT", help="Begin with another run's weights."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from last.pt.")]
Curves = Annotated[bool, typer.Option("--tensorboard", help="Write curves to DIR/tensorboard too.")]
Threads = Annotated[int, typer.Option("--threads", help="CPU threads of PyTorch.", min=1)]


def fit(
    data: Faces,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Checkpoints and log.")],
    recipe: Annotated[str, typer.Option("--recipe", help="Name of a recipe.")] = "ferplus",
    set_: Changes = [],  # noqa: B006 - typer copies it
    from_: Begin = None,
    resume: Resume = False,
    find_lr: Annotated[
        bool, typer.Option("--find-lr", help="Look for a learning rate instead: DIR/rate.html.")
    ] = False,
    tensorboard: Curves = False,
    threads: Threads = 2,
) -> None:
    """Train a face network; interrupt it at will and go on with --resume.

    Several processes share the work under torchrun: torchrun --nproc-per-node 2 -m training fit …
    """
    import torch

    from training import recipes
    from training.data import cache

    torch.set_num_threads(threads)
    config = recipes.changed(recipes.recipe(recipe), set_)
    cached = cache.load(data)
    if find_lr:
        if from_ is not None:
            raise ConfigError("--find-lr looks for the rate of fresh weights; leave --from away")
        _find(config, cached.faces, out)
        return
    run = _Run(out=out, begin=from_, resume=resume, tensorboard=tensorboard)
    _train(config, cached.faces, cached.sources, run)


def distill(
    teachers: Annotated[list[Path], typer.Argument(help="Checkpoints of the teachers.")],
    data: Faces,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The student's run.")],
    recipe: Annotated[str, typer.Option("--recipe", help="The student's.")] = "ferplus",
    set_: Changes = [],  # noqa: B006 - typer copies it
    share: Annotated[float, typer.Option("--share", help="Of the teachers' opinion.")] = 0.5,
    temperature: Annotated[float, typer.Option("--temperature", help="Of it.")] = 2.0,
    unlabelled: Annotated[
        list[Path],
        typer.Option("--unlabelled", metavar="CACHE", help="More faces; the teachers label them."),
    ] = [],  # noqa: B006 - typer copies it
    mesh: Annotated[
        Path | None,
        typer.Option("--mesh", metavar="MESH", help="Heed a reader of the faces' shapes too."),
    ] = None,
    mesh_share: Annotated[float, typer.Option("--mesh-share", help="Of its opinion.")] = 0.25,
    from_: Begin = None,
    resume: Resume = False,
    tensorboard: Curves = False,
    threads: Threads = 2,
) -> None:
    """Train a student on votes mixed with the averaged opinion of teachers."""
    import torch

    from streamer.bundle import file_sha256
    from training import recipes
    from training.data import cache
    from training.distill import TEACHER, taught, with_unlabelled

    torch.set_num_threads(threads)
    config = recipes.changed(recipes.recipe(recipe), set_)
    cached = cache.load(data)
    faces, sources = cached.faces, dict(cached.sources)
    if mesh is not None and unlabelled:
        raise ConfigError("--mesh holds no mesh of --unlabelled faces; use one of them")
    shapes = _shapes(mesh, faces, config) if mesh is not None else None
    for path in unlabelled:
        others = cache.load(path)
        faces = with_unlabelled(faces, others.faces)
        sources |= others.sources or {path.name: file_sha256(path)}
    faces = taught(
        faces,
        teachers,
        config.labels,
        share=share,
        temperature=temperature,
        geometry=shapes,
        weight=mesh_share,
    )
    heard = f", of which {mesh_share:g} a reader of shapes" if mesh is not None else ""
    sources |= {
        f"{TEACHER} {number}, share {share:g}{heard}, temperature {temperature:g}": file_sha256(
            path
        )
        for number, path in enumerate(teachers, start=1)
    }
    run = _Run(out=out, begin=from_, resume=resume, tensorboard=tensorboard)
    _train(config, faces, sources, run)


def soup(
    members: Annotated[
        list[Path], typer.Argument(help="Two or more checkpoints that began with the same one.")
    ],
    data: Faces,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The mean's checkpoint.")],
    all_: Annotated[
        bool, typer.Option("--all", help="Take every member, whatever validation says.")
    ] = False,
    threads: Threads = 2,
) -> None:
    """Average the weights of several runs into one network, as good as an ensemble and no slower.

    Begin the runs with the same checkpoint (--from), with other seeds or other recipes of the same
    network. The best is taken first, and each other one if validation's score does not fall.
    """
    import torch

    from training import checkpoint as checkpoints
    from training.inputs import faces_of, part_of
    from training.soup import cook

    torch.set_num_threads(threads)
    if out.exists():
        raise ConfigError(f"{out} is there already; choose another name or remove it")
    found = cook(
        members,
        part_of(faces_of(data, []), "valid", data.stem),
        greedy=not all_,
        report=lambda path, score, kept: typer.echo(
            f"{'with' if kept else 'not'} {path}: score {score:.4f}"
        ),
    )
    for path, score in found.alone.items():
        typer.echo(f"{path} alone: score {score:.4f}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out.parent}: cannot be made: {error.strerror}") from None
    checkpoints.save(out, found.checkpoint)
    typer.echo(f"{out}: the mean of {len(found.kept)} of {len(members)}, score {found.score:.4f}")


def _shapes(path: Path, faces: FaceSet, config: TrainConfig) -> Geometry:
    """Let readers learn what the faces' shapes tell, with a bar."""
    from training import mesh
    from training.geometry import read_geometry
    from training.progress import Watching

    with Watching(1) as watching:
        told = read_geometry(mesh.load(path, faces), faces, config.labels, tick=watching.tick)
    typer.echo(f"shapes alone: {told.accuracy:.1%} of the clear training pictures, out of fold")
    return told


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """Where a run goes, and where it begins."""

    out: Path
    begin: Path | None
    resume: bool
    tensorboard: bool


def _train(config: TrainConfig, faces: FaceSet, sources: dict[str, str], run: _Run) -> None:
    from streamer.bundle import file_sha256
    from training import checkpoint as checkpoints
    from training.data.faces import CLASSES
    from training.data.labels import targets
    from training.origin import BEGUN
    from training.progress import Watching
    from training.train import fit as train
    from training.workers import joined

    out, start = run.out, None
    if run.begin is not None:
        start = checkpoints.load(run.begin)
        began = {run.begin.name: file_sha256(run.begin)} | start.data
        sources = sources | {
            f"{BEGUN} {name.removeprefix(BEGUN).strip()}": digest for name, digest in began.items()
        }
    curves = out / "tensorboard" if run.tensorboard else None
    mass_K = targets(faces.part("train"), config.labels)[0].sum(axis=0)
    absent = [name for name, mass in zip(CLASSES, mass_K, strict=True) if mass == 0.0]
    if absent:
        words = f"no training picture shows {', '.join(absent)}: the network will not name it"
        typer.echo(f"streamer-train: {words}", err=True)
    try:
        with (
            joined(config.device) as workers,
            Watching(config.epochs, curves=curves, quiet=not workers.first) as watching,
        ):
            train(
                config,
                faces,
                out,
                sources=sources,
                start=start,
                resume=run.resume,
                report=watching.epoch,
                tick=watching.tick,
            )
    except KeyboardInterrupt:
        typer.echo(
            f"streamer-train: interrupted; {out} holds every finished epoch; go on with --resume",
            err=True,
        )
        raise typer.Exit(1) from None


def _find(config: TrainConfig, faces: FaceSet, out: Path) -> None:
    from training import report
    from training.progress import Watching
    from training.rate import find_rate, rate_section

    with Watching(1) as watching:
        found = find_rate(config, faces, tick=watching.tick)
    page = out / "rate.html"
    report.write(page, "Learning rate", [rate_section(found)], found)
    typer.echo(f"optim.lr={found.rate:.2g}")
    typer.echo(f"{page}: written")
