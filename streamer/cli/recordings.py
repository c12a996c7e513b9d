"""Recorded videos, and events kept or handed on: analyse, record, bridge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streamer.cli.options import ClientKeyOption, ConnectOption, MirrorOption, ServerKeyOption

__all__ = ["analyse", "bridge_app", "record"]

bridge_app = typer.Typer(help="Hand events on to other systems.", no_args_is_help=True)


def analyse(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT…", help="Video files, and folders of them.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="A folder a recording goes in here.")
    ],
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="Analyse as this daemon would."),
    ] = None,
    fps: Annotated[
        float | None, typer.Option(min=0, max=240, help="Pictures a second; 0: all.  [default: 10]")
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=0, help="Files at a time; 0: one a core.")
    ] = 0,
    parquet: Annotated[bool, typer.Option("--parquet", help="Also samples.parquet.")] = False,
    thumbnails: Annotated[
        bool, typer.Option("--thumbnails", help="A sheet of pictures of each face.")
    ] = False,
    video: Annotated[
        bool, typer.Option("--video", help="The video with boxes and labels, its sound kept.")
    ] = False,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="A timeline a face.")] = True,
    start: Annotated[
        str,
        typer.Option(metavar="TIME", help="When the recordings began, as 2026-01-31T12:00:00Z."),
    ] = "",
    mirror: MirrorOption = "",
) -> None:
    """Analyse recorded videos, faster than real time: the same results as the daemon's.

    A recording that is finished is left as it is, so the same command goes on after an
    interruption. No picture is written unless --thumbnails or --video asks for it.
    """
    from streamer.supervisor import block_signals

    block_signals()
    from rich.console import Console

    from streamer.analyse import order, run

    wanted = order.Order(
        inputs=tuple(inputs),
        out=out,
        config=order.config_of(config, fps=fps, mirror=mirror),
        outputs=order.outputs_of(plots=plots, parquet=parquet, thumbnails=thumbnails, video=video),
        jobs=jobs,
        start_ns=order.start_of(start),
    )
    raise typer.Exit(run.run(wanted, Console(), Console(stderr=True)))


def record(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where the files go.")],
    form: Annotated[
        str, typer.Option("--format", help="sqlite: can be asked at once; parquet: to analyse.")
    ] = "sqlite",
    connect: ConnectOption = "tcp://127.0.0.1:5556",
    topic: Annotated[
        list[str] | None,
        typer.Option(metavar="PREFIX", help="Only topics that begin so; may be repeated."),
    ] = None,
    rotate_mb: Annotated[float, typer.Option(help="Begin a new file at this size.")] = 1000,
    rotate_hours: Annotated[float, typer.Option(help="And at this age.")] = 24,
    keep: Annotated[int, typer.Option(help="Finished files to keep; 0: all.")] = 0,
    server_key: ServerKeyOption = "",
    client_key: ClientKeyOption = "",
) -> None:
    """Record events, never pictures, to SQLite or Parquet files until SIGTERM or Ctrl-C."""
    from streamer.supervisor import block_signals

    block_signals()
    from streamer.bridge import command

    feed = command.Feed(connect=connect, server_key=server_key, client_key=client_key)
    code = command.record(
        feed,
        topics=tuple(topic or ("",)),
        out=out,
        form=form,
        rotate_mb=rotate_mb,
        rotate_hours=rotate_hours,
        keep=keep,
    )
    raise typer.Exit(code)


@bridge_app.command("mqtt")
def bridge_mqtt(
    broker: Annotated[
        str, typer.Option(metavar="URL", help="mqtt://[USER@]HOST[:PORT], mqtts:// for TLS.")
    ] = "mqtt://127.0.0.1",
    password_file: Annotated[
        str, typer.Option(metavar="FILE", help="Holds the user's password; or a credential.")
    ] = "",
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM of who may vouch for the broker.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="Of the topics.")] = "streamer",
    discovery: Annotated[
        str, typer.Option(metavar="PREFIX", help="Where Home Assistant listens; empty: no such.")
    ] = "homeassistant",
    samples: Annotated[
        bool, typer.Option("--samples", help="Every reading, too: ten a second and face.")
    ] = False,
    connect: ConnectOption = "tcp://127.0.0.1:5556",
    snapshot: Annotated[
        str, typer.Option(metavar="ADDR", help="Default: the port after --connect's.")
    ] = "",
    server_key: ServerKeyOption = "",
    client_key: ClientKeyOption = "",
) -> None:
    """Publish events and each camera's state to an MQTT broker; Home Assistant finds them."""
    from streamer.supervisor import block_signals

    block_signals()
    from streamer.bridge import command

    feed = command.Feed(
        connect=connect, snapshot=snapshot, server_key=server_key, client_key=client_key
    )
    code = command.mqtt(
        feed,
        broker=broker,
        password_file=password_file,
        ca=ca,
        prefix=prefix,
        discovery_prefix=discovery,
        samples=samples,
    )
    raise typer.Exit(code)
