"""The fleet: cameras spread over the nodes of a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamer.cli.options import ConfigOption
from streamer.errors import ConfigError, StreamerError

if TYPE_CHECKING:
    from streamer.fleet.control import Request

__all__ = ["app"]

app = typer.Typer(
    help="Run one configuration's cameras on the machines of a Ray cluster.",
    no_args_is_help=True,
)
NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="As `status` names it.")]
CameraArgument = Annotated[str, typer.Argument(metavar="NAME", help="The camera.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command()
def run(
    config: ConfigOption,
    address: Annotated[
        str,
        typer.Option(metavar="ADDR", help="Of the cluster; default: that of this machine."),
    ] = "",
) -> None:
    """Run the fleet until SIGTERM or Ctrl-C; SIGHUP reads the configuration again.

    After SIGTERM the nodes go on for half a minute (fleet.handover_s), so that the fleet can be
    restarted without an interruption; after Ctrl-C and `streamer fleet stop` everything ends.
    """
    from streamer.supervisor import block_signals, leave

    block_signals()
    from streamer.fleet import service

    leave(service.run(config, address=address))


@app.command()
def status(config: ConfigOption, json: JsonOption = False) -> None:
    """Show the nodes, and which cameras do not run."""
    from streamer.fleet import control

    _show(config, control.Show(), json=json)


@app.command()
def drain(
    node: NodeArgument,
    config: ConfigOption,
    back: Annotated[bool, typer.Option("--back", help="Take the node back.")] = False,
    json: JsonOption = False,
) -> None:
    """Have other nodes take a node's cameras, and give it nothing more."""
    from streamer.fleet import control

    _show(config, control.Drain(node=node, back=back), json=json)


@app.command()
def add(
    name: CameraArgument,
    config: ConfigOption,
    url: Annotated[
        str,
        typer.Option(help="Its address; without one a removed camera of the configuration."),
    ] = "",
    credentials: Annotated[
        str, typer.Option(metavar="FILE", help="Holds user:password, at this place on the nodes.")
    ] = "",
    loop: Annotated[bool, typer.Option("--loop", help="Files: start again at the end.")] = False,
    cost: Annotated[float, typer.Option(help="In cameras of 640x360.")] = 1.0,
    needs: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A label that its node must have; repeatable."),
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Its node must have a GPU.")] = False,
    json: JsonOption = False,
) -> None:
    """Run one more camera, for good: it is remembered beside the configuration."""
    import msgspec

    from streamer.config import Camera
    from streamer.fleet import control
    from streamer.fleet.settings import Need
    from streamer.logs import redact

    if redact(url) != url:
        raise ConfigError(
            "--url: everyone on this machine sees a password that is typed here; put it into a "
            "file and name that with --credentials"
        )
    asked = {"cost": cost, "needs": dict(_pair(text) for text in needs or ()), "gpu": gpu}
    described = {"name": name, "url": url, "credentials": credentials, "loop": loop}
    try:
        need = msgspec.convert(asked, Need)
        camera = msgspec.convert(described, Camera) if url else None
    except msgspec.ValidationError as error:
        text = str(error).replace("`", "")
        if "$.name" in text:
            text = "a camera's name has 1 to 64 of the characters a-z 0-9 _ -"
        raise ConfigError(f"{name}: {text}") from None
    if camera is None and (need != Need() or credentials or loop):
        raise ConfigError(
            f"{name}: without --url it comes back as the configuration has it; leave out the other "
            "options, or add a new camera with --url"
        )
    _show(config, control.Add(name=name, camera=camera, need=need), json=json)


@app.command()
def remove(name: CameraArgument, config: ConfigOption, json: JsonOption = False) -> None:
    """Run a camera no more, until it is added again."""
    from streamer.fleet import control

    _show(config, control.Remove(name=name), json=json)


@app.command()
def stop(config: ConfigOption) -> None:
    """End the fleet and everything that it runs on the nodes."""
    from streamer.fleet import control, settings

    path = settings.load(config).fleet.socket
    control.ask(path, control.Stop())
    if not control.wait_gone(path):
        raise StreamerError("the fleet has not ended yet; look at its log")
    typer.echo("the fleet has ended, and what it ran on the nodes")


@app.command()
def simulate(
    cameras: Annotated[int, typer.Option(min=1, max=20_000)] = 1000,
    nodes: Annotated[int, typer.Option(min=1, max=1000)] = 60,
    capacity: Annotated[
        list[float] | None,
        typer.Option(
            metavar="CAMERAS", help="Of a node; repeat it for nodes of several sizes: 16 and 28."
        ),
    ] = None,
    hours: Annotated[float, typer.Option(min=0.1, max=1000)] = 24.0,
    unrest: Annotated[
        float, typer.Option(min=0, help="1: every node fails once in a day; 0: nothing happens.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Another one, another day.")] = 0,
    json: JsonOption = False,
) -> None:
    """Say what a day of a fleet would be like: failures, moves, what waits; needs no cluster."""
    import msgspec
    from rich.console import Console

    from streamer.fleet import forecast
    from streamer.fleet import simulate as simulated

    if any(size <= 0 for size in capacity or ()):
        raise ConfigError("--capacity: a node carries more than 0 cameras")
    found = simulated.simulate(
        cameras=cameras,
        nodes=nodes,
        capacities=capacity or simulated.CAPACITIES,
        hours=hours,
        seed=seed,
        unrest=forecast.Unrest.of(nodes, unrest),
    )
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return
    for table in forecast.tables(found):
        Console().print(table)


def _show(config: Path, request: Request, *, json: bool) -> None:
    """Ask the fleet that runs, and print how it is."""
    import msgspec
    from rich.console import Console

    from streamer.fleet import control, settings
    from streamer.fleet import status as printed

    found, said = control.ask(settings.load(config).fleet.socket, request)
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        if said:
            typer.echo(said)
        printed.show(found, Console())


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"--needs {text!r}: expected a label and its value, such as site=north")
    return key, value
