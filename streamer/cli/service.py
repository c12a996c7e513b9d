"""The daemon and those who look at it: run, check, demo, watch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streamer.cli.options import ConfigOption
from streamer.errors import ConfigError

__all__ = ["check", "demo", "run", "watch"]


def run(config: ConfigOption) -> None:
    """Run the daemon until SIGTERM or Ctrl-C; SIGHUP reads the configuration again.

    Exit codes: 0 asked to stop; 78 bad configuration, bundle or asset; 1 anything else.
    """
    from streamer.memory import keep_freed, share_arenas
    from streamer.supervisor import block_signals, leave

    block_signals()  # before libraries are imported that start threads, both
    share_arenas()
    keep_freed()
    from streamer import app as daemon

    leave(daemon.run(config))


def check(
    config: ConfigOption,
    probe: Annotated[
        bool, typer.Option("--probe", help="Open every camera and say what it delivers.")
    ] = False,
) -> None:
    """Validate a configuration, a fleet's too, without starting anything."""
    from rich.console import Console

    from streamer import probe as probing

    raise typer.Exit(probing.check(config, Console(), probe=probe))


def demo(
    seconds: Annotated[
        float, typer.Option(min=0, help="Stop by itself after this long; 0: run until Ctrl-C.")
    ] = 0,
    camera: Annotated[
        str, typer.Option(metavar="URL", help="A camera or file instead of the built-in feed.")
    ] = "",
) -> None:
    """Run the main job with no configuration, print its events and where to look.

    Without --camera the feed is composed of two public-domain portraits.
    """
    from streamer.supervisor import block_signals, leave

    block_signals()
    from rich.console import Console

    from streamer import demo as demonstration

    leave(demonstration.run(Console(), Console(stderr=True), seconds=seconds, camera=camera))


def watch(
    connect: Annotated[
        str, typer.Option(metavar="ADDR", help="The daemon's event address.")
    ] = "tcp://127.0.0.1:5556",
    topic: Annotated[
        list[str] | None,
        typer.Option(metavar="PREFIX", help="Only topics that begin so; may be repeated."),
    ] = None,
    snapshot: Annotated[
        str,
        typer.Option(
            metavar="ADDR",
            help="Where the table's first state comes from; default: one port after --connect.",
        ),
    ] = "",
    lines: Annotated[
        bool, typer.Option("--lines", help="One line an event, as where there is no terminal.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One event a line, for pipes.")] = False,
    server_key: Annotated[
        str, typer.Option(metavar="FILE", help="The daemon's public CURVE certificate.")
    ] = "",
    client_key: Annotated[
        str, typer.Option(metavar="FILE", help="Your own secret CURVE certificate.")
    ] = "",
) -> None:
    """Subscribe to a daemon and show its faces in a live table, or each event in a line.

    What was missed is counted and said. Topics read TYPE/CAMERA/, for instance:
    --topic emotion.changed/lobby/
    """
    from rich.console import Console

    from streamer import address, keys
    from streamer import watch as watching
    from streamer.client import Subscriber

    if bool(server_key) != bool(client_key):
        raise ConfigError("--server-key and --client-key are needed together")
    console, topics = Console(), tuple(topic or ("",))
    table = console.is_terminal and not (console.is_dumb_terminal or lines or json)
    subscriber = Subscriber(
        connect=connect,
        topics=topics,
        snapshot=(snapshot or address.following(connect)) if table else None,
        server_key=keys.load_public(Path(server_key)) if server_key else None,
        keys=keys.load_pair(Path(client_key)) if client_key else None,
    )
    with subscriber:
        if table:
            from streamer import watch_table

            code = watch_table.watch(subscriber, console=console, topics=topics)
        else:
            notes = Console(stderr=True)
            code = watching.watch(subscriber, console=console, notes=notes, json=json)
    raise typer.Exit(code)
