"""``streamer-train tune``: search a recipe's values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["tune"]

_SHOWN = 5


def tune(
    data: Annotated[Path, typer.Option("--data", metavar="CACHE", help="Labelled faces.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The study and its runs.")],
    recipe: Annotated[str, typer.Option("--recipe", help="The base.")] = "ferplus",
    set_: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change the base.")
    ] = [],  # noqa: B006 - typer copies it
    vary: Annotated[
        list[str],
        typer.Option(
            "--vary", metavar="KEY=LOW..HIGH", help="Or LOW..HIGH:log, or [A,B]; default: a few."
        ),
    ] = [],  # noqa: B006 - typer copies it
    trials: Annotated[int, typer.Option("--trials", help="In all; goes on.", min=1)] = 30,
    threads: Annotated[int, typer.Option("--threads", help="CPU threads.", min=1)] = 2,
) -> None:
    """Search a recipe's values on the validation split; interrupt it at will and run it again.

    Run the same command on all machines that share DIR, and they share the search.
    """
    import torch

    from training import recipes, report
    from training.inputs import faces_of
    from training.tune import USUAL, varied
    from training.tune import tune as search

    torch.set_num_threads(threads)
    base = recipes.changed(recipes.recipe(recipe), set_)
    values = [varied(text) for text in (vary or USUAL)]
    found = search(base, faces_of(data, []), out, values, trials=trials, report=typer.echo)
    if not found.trials:
        typer.echo("every trial is under way in another process; none has ended yet")
        return
    section = report.tune_section(found)
    report.write(out / "tune.html", f"Search over {recipe}", [section], found)
    for trial in found.trials[:_SHOWN]:
        typer.echo(f"{trial.score:.4f} {trial.state}: {' '.join(trial.values)}")
    best = " ".join(f"--set {v}" for v in (*set_, *found.trials[0].values))
    typer.echo(f"best: streamer-train fit --data {data} --recipe {recipe} {best}")
