"""``streamer-train heads``: temporal heads beside one another on real clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["heads"]


def heads(
    checkpoint: Annotated[Path, typer.Argument(help="best.pt or last.pt of a run.")],
    data: Annotated[Path, typer.Option("--data", metavar="CACHE", help="What it learned from.")],
    clips: Annotated[
        str, typer.Option("--clips", metavar="NAME=CACHE", help="Real clips to judge on.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="HTML", help="Page; JSON beside it.")],
    kind: Annotated[
        list[str], typer.Option("--kind", help="lstm, gru, tcn, attention; default: all.")
    ] = [],  # noqa: B006 - typer copies it
    seeds: Annotated[int, typer.Option("--seeds", help="Runs a kind.", min=1)] = 3,
    stills: Annotated[int, typer.Option("--stills", help="Pictures that become clips.")] = 2000,
    real: Annotated[
        bool, typer.Option("--real", help="Learn from other people's real clips too, in folds.")
    ] = False,
    set_: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="E.g. sequences.epochs=4.")
    ] = [],  # noqa: B006 - typer copies it
    leave_out: Annotated[
        list[str], typer.Option("--leave-out", metavar="GROUP", help="A person left out.")
    ] = [],  # noqa: B006 - typer copies it
    threads: Annotated[int, typer.Option("--threads", help="CPU threads.", min=1)] = 2,
) -> None:
    """Compare temporal heads with a moving average of equal lag on real clips, person by person."""
    from itertools import product

    import torch

    from streamer.errors import ConfigError
    from training import checkpoint as checkpoints
    from training import report
    from training.export import calibrated
    from training.heads import LAYERS, compare, read_real
    from training.inputs import clips_of, faces_of, network_of, pair
    from training.recipes import changed, config_from
    from training.release import clips_of_stills, operating_point

    unknown = [k for k in kind if k not in LAYERS]
    if unknown:
        raise ConfigError(f"--kind {unknown[0]}: choose from {', '.join(LAYERS)}")
    torch.set_num_threads(threads)
    name, path = pair(clips)
    bare, prior_K = network_of(checkpoint)
    config = changed(config_from(checkpoints.load(checkpoint).config), set_)
    faces = faces_of(data, [])
    net = calibrated(bare, prior_K, *operating_point(bare, prior_K, faces.part("valid")))
    lessons = clips_of_stills(net, faces, config, stills)
    judged = read_real(net, clips_of(path, leave_out), config.sequences.head.step_s)
    results = []
    for with_real, one in product((False, True) if real else (False,), kind or LAYERS):
        results += compare(
            net,
            lessons,
            judged,
            config.sequences,
            kinds=(one,),
            seeds=tuple(range(seeds)),
            real=with_real,
            report=typer.echo,
        )
        # After each kind, so that an interruption leaves what is done.
        section = report.heads_section(name, len(judged.features), judged.step_s, results)
        report.write(out, f"Temporal heads on {name}", [section], results)
    for row in (section.header, *section.rows):
        typer.echo("  ".join(row))
