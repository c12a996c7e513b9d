"""``streamer-train heads``: temporal heads beside one another on real clips."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from streamer.types import F32

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
    """Compare temporal heads with a moving average of equal lag on real clips, person by person.

    Stop it at will: what was read and every finished run is kept in a folder beside the page, and
    the same command goes on.
    """
    from itertools import product

    import numpy as np
    import torch

    from streamer.bundle import file_sha256
    from streamer.errors import ConfigError
    from training import checkpoint as checkpoints
    from training import report
    from training.export import calibrated
    from training.heads import LAYERS, compare, read_real, two_people
    from training.inputs import clips_of, faces_of, network_of, pair
    from training.kept import Kept, key_of
    from training.outputs import file_place
    from training.recipes import changed, config_from, to_plain
    from training.release import clips_of_stills, operating_point

    unknown = [k for k in kind if k not in LAYERS]
    if unknown:
        raise ConfigError(f"--kind {unknown[0]}: choose from {', '.join(LAYERS)}")
    torch.set_num_threads(threads)
    file_place(out)
    name, path = pair(clips)
    clip_set = clips_of(path, leave_out)
    if real:
        two_people(clip_set.subjects_M, name)
    bare, prior_K = network_of(checkpoint)
    config = changed(config_from(checkpoints.load(checkpoint).config), set_)
    plain, kept = to_plain(config), Kept(out.with_suffix(".kept"))
    learned = [file_sha256(checkpoint), file_sha256(data)]

    def point() -> dict[str, NDArray[np.float64]]:
        typer.echo("choosing the operating point on the validation split")
        faces = faces_of(data, []).part("valid")
        return {"point": np.array(operating_point(bare, prior_K, faces))}

    share, temperature = kept.arrays("point", key_of(learned), point)["point"].tolist()
    net = calibrated(bare, prior_K, share, temperature)

    def read() -> dict[str, NDArray[np.float32]]:
        typer.echo(f"reading clips of {stills} stills")
        features, targets = clips_of_stills(net, faces_of(data, []), config, stills)
        return {"features": features.numpy(), "targets": targets.numpy()}

    lessons_key = key_of(learned, plain, stills)
    lessons = kept.arrays("stills", lessons_key, read)
    pair_of = torch.from_numpy(lessons["features"]), torch.from_numpy(lessons["targets"])
    judged = read_real(net, clip_set, config.sequences.head.step_s)
    run_key = key_of(lessons_key, file_sha256(path), leave_out)

    def keep(run: str, work: Callable[[], list[F32]]) -> list[F32]:
        lengths = np.cumsum([len(x) for x in judged.features])[:-1]
        said = kept.arrays(run, run_key, lambda: {"said": np.concatenate(work())})["said"]
        return np.split(said.astype(np.float32), lengths)

    results = []
    for with_real, one in product((False, True) if real else (False,), kind or LAYERS):
        results += compare(
            net,
            pair_of,
            judged,
            config.sequences,
            kinds=(one,),
            seeds=tuple(range(seeds)),
            real=with_real,
            keep=keep,
            report=typer.echo,
        )
        # After each kind, so that an interruption leaves what is done.
        section = report.heads_section(name, len(judged.features), judged.step_s, results)
        report.write(out, f"Temporal heads on {name}", [section], results)
    for row in (section.header, *section.rows):
        typer.echo("  ".join(row))
