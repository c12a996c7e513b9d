"""The command line of training: reads options, calls the work, turns errors into one line.

Everything heavy is imported inside the command that needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from streamer.errors import StreamerError
from training.cli_ablate import ablate
from training.cli_cluster import cluster
from training.cli_data import data_app
from training.cli_fit import distill, fit, soup
from training.cli_heads import heads
from training.cli_tune import tune

__all__ = ["app", "main"]

app = typer.Typer(
    name="streamer-train",
    help="Audit data, train, measure and export the models that the streamer runs.",
    epilog="Start with: streamer-train data import ferplus-packed FILE --out cache/ferplus.npz",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")
app.command()(fit)
app.command()(ablate)
app.command()(distill)
app.command()(soup)
app.command()(heads)
app.command()(tune)
app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})(
    cluster
)

Faces = Annotated[Path, typer.Option("--data", metavar="CACHE", help="Cache of labelled faces.")]
Unseen = Annotated[
    list[str],
    typer.Option("--unseen", metavar="NAME=CACHE", help="A corpus never trained on; repeatable."),
]
Clips = Annotated[
    list[str],
    typer.Option("--clips", metavar="NAME=CACHE", help="Real clips never trained on; repeatable."),
]
Learned = Annotated[
    list[str],
    typer.Option(
        "--learn-clips",
        metavar="NAME=CACHE",
        help="Real clips that the head learns from, measured person by person; repeatable.",
    ),
]
LeaveOut = Annotated[
    list[str],
    typer.Option("--leave-out", metavar="GROUP", help="A person left out of unseen corpora."),
]
Threads = Annotated[int, typer.Option("--threads", help="CPU threads of PyTorch.", min=1)]


@app.command()
def synthesize(
    kind: Annotated[str, typer.Argument(help="gan or morph.")],
    data: Faces,
    unseen: Annotated[Path, typer.Option("--unseen", metavar="CACHE", help="Never trained on.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Pictures, runs, verdict.")],
    class_: Annotated[list[str], typer.Option("--class", help="Of what; repeatable.")],
    count: Annotated[int, typer.Option("--count", help="Pictures a class.", min=1)] = 500,
    steps: Annotated[int, typer.Option("--steps", help="Of the GAN.", min=1)] = 6000,
    recipe: Annotated[str, typer.Option("--recipe", help="Of the gate's runs.")] = "ferplus",
    set_: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change a value.")
    ] = [],  # noqa: B006 - typer copies it
    seeds: Annotated[int, typer.Option("--seeds", help="Pairs of runs.", min=3)] = 3,
    leave_out: LeaveOut = [],  # noqa: B006 - typer copies it
    threads: Threads = 2,
) -> None:
    """Make faces for small classes, and keep them only if training with them proves better."""
    import torch

    from training import recipes
    from training.data import cache
    from training.gate import gate
    from training.gate_page import write_page, write_picture
    from training.inputs import faces_of
    from training.synthesize import GanConfig, make, sample_sheet

    torch.set_num_threads(threads)
    faces, other = faces_of(data, []), faces_of(unseen, leave_out)
    config = recipes.changed(recipes.recipe(recipe), set_)
    gan = GanConfig(steps=steps, bfloat16=config.bfloat16, seed=config.seed)

    def told(step: int, critic: float, generator: float) -> None:
        line = f"step {step}/{steps}: critic {critic:.3f}, generator {generator:.3f}"
        typer.echo(line, err=True)

    made = make(kind, faces, class_, count=count, gan=gan, report=told)
    cache.save(out / "made.npz", made, [])
    write_picture(out / "sheet.png", sample_sheet(made))
    typer.echo(f"{out / 'sheet.png'}: some of the {len(made)} faces that were made")
    chosen = tuple(range(seeds))
    verdict = gate(config, faces, made, other, out, seeds=chosen, report=typer.echo)
    what = f"{len(made)} faces of {', '.join(class_)} by {kind}"
    write_page(out / "verdict.html", what, verdict, sample_sheet(made))
    typer.echo("accepted" if verdict.accepted else "rejected")
    for reason in verdict.reasons:
        typer.echo(f"  {reason}")
    typer.echo(f"{out / 'verdict.html'}: written")


@app.command()
def stack(
    members: Annotated[list[Path], typer.Argument(help="Two or more checkpoints.")],
    data: Faces,
    split: Annotated[str, typer.Option("--split", help="One no member trained on.")] = "valid",
    threads: Threads = 2,
) -> None:
    """Measure what weighing several networks by a second model is worth, out of fold."""
    import torch

    from training.ensemble import stack as stacked
    from training.inputs import faces_of, part_of

    torch.set_num_threads(threads)
    result = stacked(members, part_of(faces_of(data, []), split, data.stem))
    for path, value in zip(members, result.members, strict=True):
        typer.echo(f"{path}: accuracy {value:.4f}")
    typer.echo(f"mean of probabilities: {result.averaged:.4f}")
    typer.echo(f"stacked: {result.stacked:.4f} (n {result.faces}, out of fold)")


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="best.pt or last.pt of a run.")],
    data: Faces,
    split: Annotated[str, typer.Option("--split", help="train, valid or test.")] = "test",
    prior_share: Annotated[
        float, typer.Option("--prior-share", help="Share of the corpus' prior in the logits.")
    ] = 0.0,
    leave_out: LeaveOut = [],  # noqa: B006 - typer copies it
    out: Annotated[
        Path | None, typer.Option("--out", metavar="JSON", help="Write the scores here too.")
    ] = None,
    threads: Threads = 2,
) -> None:
    """Measure a checkpoint on one split, as published and as the daemon cuts faces."""
    import msgspec
    import torch

    from training.export import calibrated
    from training.inputs import faces_of, network_of, part_of
    from training.outputs import file_place
    from training.release import measure

    torch.set_num_threads(threads)
    if out is not None:
        file_place(out)
    net = calibrated(*network_of(checkpoint), prior_share, 1.0)
    faces = part_of(faces_of(data, leave_out), split, data.stem)
    results = measure(net, faces, dataset=data.stem, split=split, temperature=1.0)
    for r in results:
        s = r.scores
        typer.echo(
            f"{r.dataset}, {r.split}, {r.framing}, classes {r.view}: n {s.n}, "
            f"accuracy {s.accuracy.value:.3f} "
            f"({s.accuracy.low:.3f} to {s.accuracy.high:.3f}), UAR {s.uar.value:.3f} "
            f"({s.uar.low:.3f} to {s.uar.high:.3f}), macro F1 {s.macro_f1.value:.3f}"
        )
    if out is not None:
        out.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))


@app.command("report")
def report_model(
    checkpoints: Annotated[
        list[Path], typer.Argument(help="Of one run, or of several of the same recipe.")
    ],
    data: Faces,
    out: Annotated[Path, typer.Option("--out", metavar="HTML", help="Page; JSON beside it.")],
    unseen: Unseen = [],  # noqa: B006 - typer copies it
    leave_out: LeaveOut = [],  # noqa: B006 - typer copies it
    groups: Annotated[
        list[str],
        typer.Option(
            "--groups", metavar="NAME=CSV", help="Columns name or group, and what is known of it."
        ),
    ] = [],  # noqa: B006 - typer copies it
    list_: Annotated[
        list[str], typer.Option("--list", metavar="NAME=FILE", help="Pictures scored apart.")
    ] = [],  # noqa: B006 - typer copies it
    threads: Threads = 2,
) -> None:
    """Write a page about a model: curves, accuracy, confusion, slices, spread over runs."""
    import torch

    from training import report
    from training.inputs import corpus_of, faces_of, pair, pairs
    from training.model_page import Divisions, page_of
    from training.outputs import file_place

    torch.set_num_threads(threads)
    file_place(out)
    corpus = corpus_of(data)
    named = pairs("--unseen", unseen, taken=(corpus.name,))
    others = {key: faces_of(path, leave_out) for key, path in named.items()}
    divisions = Divisions(groups=tuple(map(pair, groups)), lists=tuple(map(pair, list_)))
    sections, page = page_of(checkpoints, corpus, others, divisions)
    report.write(out, f"Report on {', '.join(map(str, checkpoints))}", sections, page)
    share, temperature = page.prior_share, page.temperature
    typer.echo(f"{out}: written; share of the prior {share}, temperature {temperature:.3f}")


@app.command()
def diagnose(
    checkpoint: Annotated[Path, typer.Argument(help="best.pt or last.pt of a run.")],
    data: Faces,
    out: Annotated[Path, typer.Option("--out", metavar="HTML", help="Page; JSON beside it.")],
    steps: Annotated[int, typer.Option("--steps", help="Steps of the gradient traces.")] = 20,
    rest: Annotated[
        float, typer.Option("--rest", help="Share of firing from which a channel rests.")
    ] = 0.8,
    threads: Threads = 2,
) -> None:
    """Plot dead and tireless neurons, where it looks, and gradients with and without skips."""
    import torch

    from training import checkpoint as checkpoints
    from training import diagnose as inside
    from training import report
    from training.inputs import faces_of, network_of
    from training.looking import looking_section, sheet
    from training.outputs import file_place
    from training.recipes import config_from

    torch.set_num_threads(threads)
    file_place(out)
    faces, config = faces_of(data, []), config_from(checkpoints.load(checkpoint).config)
    some = torch.from_numpy(faces.part("valid").images_NHW[:512])[:, None].float() / 255.0
    net = network_of(checkpoint)[0]
    layers = inside.firing(net, some)
    without, resting = (
        inside.firing_after(net, config, faces, 6 * steps, rest=r) for r in (0.0, rest)
    )
    traces = [inside.gradient_trace(config, faces, steps, skip=skip) for skip in (True, False)]
    sections = [
        report.firing_section(layers),
        report.rest_section(layers, without, resting, rest),
        report.trace_section(traces),
        looking_section(sheet(net, faces.part("valid"))),
    ]
    figures = {"firing": layers, "without_rest": without, "with_rest": resting}
    report.write(out, f"Inside {checkpoint}", sections, {**figures, "gradients": traces})
    dead = sum(round(f.dead * len(f.share_C)) for f in layers)
    ratios = ", ".join(f"{inside.vanishing_ratio(t):.3g}" for t in traces)
    typer.echo(f"dead channels: {dead} of {sum(len(f.share_C) for f in layers)}")
    stages = (layers, without, resting)
    counts = [sum(s > rest for f in found for s in f.share_C) for found in stages]
    told = "channels that fire in more than {:.0%}: {} now, {} on without rest, {} with rest"
    typer.echo(told.format(rest, *counts))
    typer.echo(f"first over last gradient, with and without skips: {ratios}")
    typer.echo(f"{out}: written")


@app.command("export")
def export_bundle(
    checkpoint: Annotated[Path, typer.Argument(help="best.pt or last.pt of a run.")],
    data: Faces,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The bundle's directory.")],
    name: Annotated[str, typer.Option("--name", help="The bundle's name.")],
    unseen: Unseen = [],  # noqa: B006 - typer copies it
    clips: Clips = [],  # noqa: B006 - typer copies it
    learn_clips: Learned = [],  # noqa: B006 - typer copies it
    leave_out: LeaveOut = [],  # noqa: B006 - typer copies it
    stills: Annotated[int, typer.Option("--stills", help="Clips for the temporal head.")] = 4000,
    head: Annotated[
        str, typer.Option("--head", help="lstm, gru, tcn, attention or ema; default: the recipe's.")
    ] = "",
    set_: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="E.g. sequences.epochs=4.")
    ] = [],  # noqa: B006 - typer copies it
    prior_share: Annotated[
        float | None,
        typer.Option(
            "--prior-share",
            help="Share of the corpus' prior in the logits, 0 to 1; default: validation chooses.",
        ),
    ] = None,
    threads: Threads = 2,
) -> None:
    """Make a bundle: choose the operating point, train the temporal head, measure, prove, write."""
    import torch

    from training.inputs import clips_of, corpus_of, faces_of, pairs
    from training.release import Release, release

    torch.set_num_threads(threads)
    date = dt.datetime.now(tz=dt.UTC).date().isoformat()
    changes = (*set_, *([f"sequences.head.kind={head}"] if head else []))
    corpus = corpus_of(data)
    unseen_of = pairs("--unseen", unseen, taken=(corpus.name,))
    judged_of = pairs("--clips", clips)
    learned_of = pairs("--learn-clips", learn_clips, taken=judged_of)
    release(
        checkpoint,
        corpus,
        {key: faces_of(path, leave_out) for key, path in unseen_of.items()},
        {key: clips_of(path, leave_out) for key, path in judged_of.items()},
        what=Release(
            name=name,
            commit=_commit(),
            date=date,
            stills=stills,
            changes=changes,
            prior_share=prior_share,
        ),
        out=out,
        learned={key: clips_of(path, leave_out) for key, path in learned_of.items()},
        report=typer.echo,
    )
    typer.echo(f"{out}: done")


def main() -> None:
    """Run the command line; a mistake of the user's is one line on stderr and exit code 78."""
    try:
        app()
    except StreamerError as error:
        typer.echo(f"streamer-train: {error}", err=True)
        sys.exit(error.exit_code)


def _commit() -> str:
    """Return the commit of the code, or "unknown" outside a repository."""
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"],  # noqa: S607 - the user's own git
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"
