"""``streamer-train ablate``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamer.errors import ConfigError
from training.words import duration

if TYPE_CHECKING:
    from training.ablate import Progress

__all__ = ["ablate"]

_REFRESH_S = 60.0
"""Between two versions of the page while runs go on."""


def ablate(
    data: Annotated[
        Path | None, typer.Option("--data", metavar="CACHE", help="Cache of labelled faces.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Page, JSON and a directory a run.")
    ] = Path("ablation"),
    recipe: Annotated[str, typer.Option("--recipe", help="The base.")] = "proxy",
    set_: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="Change the base, e.g. epochs=6."),
    ] = [],  # noqa: B006 - typer copies it
    only: Annotated[
        list[str],
        typer.Option("--only", metavar="NAME", help="A variant or a group; default: all."),
    ] = [],  # noqa: B006 - typer copies it
    seeds: Annotated[int, typer.Option("--seeds", help="Paired runs a variant.", min=1)] = 3,
    share: Annotated[
        float, typer.Option("--share", help="Of the training pictures.", min=0.001, max=1.0)
    ] = 0.25,
    unseen: Annotated[
        list[str],
        typer.Option("--unseen", metavar="CACHE", help="A corpus that is only measured."),
    ] = [],  # noqa: B006 - typer copies it
    leave_out: Annotated[
        list[str],
        typer.Option("--leave-out", metavar="GROUP", help="A person left out of unseen corpora."),
    ] = [],  # noqa: B006 - typer copies it
    list_: Annotated[bool, typer.Option("--list", help="Print the variants and end.")] = False,
    threads: Annotated[int, typer.Option("--threads", help="CPU threads of PyTorch.", min=1)] = 1,
) -> None:
    """Measure what each technique is worth: one change at a time, several seeds.

    Stop it at will: the same command goes on where it was. The page is kept up to date meanwhile.
    """
    from training.variants import VARIANTS

    if list_:
        for variant in VARIANTS.values():
            typer.echo(f"{variant.group or '-'}: {variant.name}  {' '.join(variant.changes)}")
        return
    if data is None:
        raise ConfigError("--data is missing; name a cache of labelled faces")

    import numpy as np
    import torch

    from training import effects, recipes
    from training.ablate import ablate as run_all
    from training.data import cache
    from training.inputs import pair

    torch.set_num_threads(threads)
    config = recipes.changed(recipes.recipe(recipe), set_)
    faces, others = cache.load(data).faces, {}
    for name, path in map(pair, unseen):
        if name in others:
            raise ConfigError(f"--unseen names {name!r} twice; give NAME=CACHE")
        other = cache.load(path).faces
        others[name] = other.rows(~np.isin(other.group_N, leave_out))
    page = out / "ablation.html"
    settings = {
        "recipe": " ".join([recipe, *set_]),
        "epochs": str(config.epochs),
        "training pictures": f"{share:g} of {data.stem}'s, drawn anew for each seed",
        "left out of unseen corpora": ", ".join(leave_out) or "nobody",
    }
    seen: list[Progress] = []
    written = time.monotonic()

    def told(progress: Progress) -> None:
        nonlocal written
        seen[:] = [progress]
        typer.echo(_line(progress))
        if time.monotonic() - written > _REFRESH_S:
            effects.write_page(page, progress.runs, progress.sets, settings)
            written = time.monotonic()

    groups = {variant.group for variant in VARIANTS.values()}
    chosen = [n for n, v in VARIANTS.items() if not only or n in only or v.group in only]
    chosen += [o for o in only if o not in chosen and o not in groups]  # refused by their name
    run_all(
        config,
        faces,
        others,
        out,
        names=tuple(chosen),
        seeds=tuple(range(seeds)),
        share=share,
        report=told,
    )
    for cells in effects.write_page(page, seen[0].runs, seen[0].sets, settings):
        typer.echo("  ".join(cell for cell in cells if cell))
    typer.echo(f"{page}: written")


def _line(progress: Progress) -> str:
    """Return one line about the run just done, and when all will be."""
    run = progress.runs[-1]
    shares = ", ".join(
        f"{name} {100 * float((guesses == progress.sets[name].labels_N).mean()):.1f} %"
        for name, guesses in run.guesses.items()
    )
    left = "" if progress.left_s is None else f"; {duration(progress.left_s)} left"
    place = f"[{len(progress.runs)}/{progress.total}]"
    return f"{place} {run.variant}, seed {run.seed}: {shares}; {run.cpu_s:.0f} s of CPU{left}"
