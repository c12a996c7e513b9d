"""``streamer-train cluster``: a command of ours on the machines of a Ray cluster."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["cluster"]


def cluster(
    command: Annotated[
        list[str], typer.Argument(metavar="fit|tune …", help="What to run, with its options.")
    ],
    processes: Annotated[int, typer.Option("--processes", help="How many.", min=1)] = 2,
    address: Annotated[
        str, typer.Option("--address", help="Of the cluster; auto: this machine's.")
    ] = "auto",
    cpus: Annotated[float, typer.Option("--cpus", help="That each takes.", min=0.1)] = 1.0,
    gpus: Annotated[float, typer.Option("--gpus", help="That each takes.", min=0.0)] = 0.0,
) -> None:
    """Run fit or tune in several processes on a Ray cluster, wherever there is room.

    Processes of tune share one search, and one that is lost begins again elsewhere. Those of fit
    share each batch, as under torchrun. The machines need this program, and CACHE and DIR in a
    folder that they share, under the same name.
    """
    from training.cluster import Room, run

    room = Room(address=address, processes=processes, cpus=cpus, gpus=gpus)
    try:
        run(command, room, typer.echo)
    except KeyboardInterrupt:
        words = "interrupted; what is done is kept: the same command goes on, fit with --resume"
        typer.echo(f"streamer-train: {words}", err=True)
        raise typer.Exit(130) from None
