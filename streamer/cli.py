"""The command line: reads options, calls the work, turns errors into one line and an exit code.

Everything heavy is imported inside the command that needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from streamer.errors import ConfigError, StreamerError

__all__ = ["app", "main"]

app = typer.Typer(
    name="streamer",
    help="Watch camera feeds, follow faces and publish how their expressions change.",
    epilog="Start with: streamer demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
assets_app = typer.Typer(help="Third-party model files: the face detectors.", no_args_is_help=True)
bundle_app = typer.Typer(help="Look into a model bundle.", no_args_is_help=True)
engines_app = typer.Typer(help="Engines compiled for NVIDIA GPUs.", no_args_is_help=True)
keys_app = typer.Typer(help="CURVE keys of the daemon and its subscribers.", no_args_is_help=True)
app.add_typer(assets_app, name="assets")
app.add_typer(bundle_app, name="bundle")
app.add_typer(engines_app, name="engines")
app.add_typer(keys_app, name="keys")
bridge_app = typer.Typer(help="Hand events on to other systems.", no_args_is_help=True)
app.add_typer(bridge_app, name="bridge")

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", metavar="FILE", help="The TOML configuration.")
]
FolderOption = Annotated[
    str, typer.Option("--assets", metavar="DIR", help="Folder of the model files.")
]
CacheOption = Annotated[
    str, typer.Option("--cache", metavar="DIR", help="Folder of the compiled engines.")
]
MirrorOption = Annotated[
    str,
    typer.Option("--mirror", metavar="DIR|URL", help="Where to look first, in a closed network."),
]

ConnectOption = Annotated[str, typer.Option(metavar="ADDR", help="The daemon's event address.")]
ServerKeyOption = Annotated[
    str, typer.Option(metavar="FILE", help="The daemon's public CURVE certificate.")
]
ClientKeyOption = Annotated[
    str, typer.Option(metavar="FILE", help="Your own secret CURVE certificate.")
]


@app.command()
def run(config: ConfigOption) -> None:
    """Run the daemon until SIGTERM or Ctrl-C; SIGHUP reads the configuration again.

    Exit codes: 0 asked to stop; 78 bad configuration, bundle or asset; 1 anything else.
    """
    from streamer import app as daemon
    from streamer.supervisor import leave

    leave(daemon.run(config))


@app.command()
def check(
    config: ConfigOption,
    probe: Annotated[
        bool, typer.Option("--probe", help="Open every camera and say what it delivers.")
    ] = False,
) -> None:
    """Validate a configuration without starting anything."""
    from rich.console import Console

    from streamer import probe as probing

    raise typer.Exit(probing.check(config, Console(), probe=probe))


@app.command()
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
    from rich.console import Console

    from streamer import demo as demonstration
    from streamer.supervisor import leave

    leave(demonstration.run(Console(), Console(stderr=True), seconds=seconds, camera=camera))


@app.command()
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


@app.command()
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


@app.command()
def bench(
    video: Annotated[
        list[Path] | None,
        typer.Option(metavar="CLIP", help="What the cameras show; default: the built-in feed."),
    ] = None,
    cameras: Annotated[
        int, typer.Option(min=0, max=1000, help="Measure so many; 0: search the capacity.")
    ] = 0,
    seconds: Annotated[float, typer.Option(min=1, help="Of each load, or each runtime.")] = 15,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="Detector and rate of this daemon."),
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report.")] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The same, to compare with later.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Print what changed since a saved report.")
    ] = None,
    engine: Annotated[
        bool,
        typer.Option("--engine", help="Only the networks, by batch size, on every runtime here."),
    ] = False,
    mirror: MirrorOption = "",
) -> None:
    """Measure raw costs, latency, capacity and efficiency on this machine.

    Cameras are real files decoded at their own pace, and the subscriber is another process. The
    largest number with a 95th percentile up to 150 ms and under 1 % of due frames missed is the
    capacity; efficiency is the sum of the raw costs over the CPU time spent.
    """
    import msgspec
    from rich.console import Console

    from streamer import logs
    from streamer.bench import run as benchmark
    from streamer.clock import SystemClock

    logs.configure("error", "console", clock=SystemClock())
    if engine:
        from streamer.bench import engine as engines

        chosen = benchmark.settings(config, mirror=mirror)
        rows = engines.bench(chosen, seconds=seconds, console=Console())
        if json is not None:
            json.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=2) + b"\n")
        return
    plan = benchmark.Plan(clips=tuple(video or ()), seconds=seconds, cameras=cameras)
    console = Console()
    report = benchmark.bench(
        benchmark.settings(config, mirror=mirror), plan, console, Console(stderr=True)
    )
    if compare is not None:
        benchmark.compare(console, compare, report)
    for path in filter(None, (json, save)):
        path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


@app.command()
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


@assets_app.command("list")
def assets_list(folder: FolderOption = "") -> None:
    """Show every model file, its licence and whether it is installed."""
    from streamer import assets

    base = Path(folder) if folder else assets.default_folder()
    for asset in assets.ASSETS.values():
        found = assets.find(asset, base)
        typer.echo(f"{asset.name:28} {asset.licence:12} {found or 'not installed'}")


@assets_app.command("install")
def assets_install(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]…", help="Which; default: what the detectors need."),
    ] = None,
    folder: FolderOption = "",
    mirror: MirrorOption = "",
) -> None:
    """Fetch the face detectors' model files, each checked against its pinned sha256.

    Without names it succeeds when one detector can be had, and says what could not.
    """
    from streamer import assets

    base = Path(folder) if folder else assets.default_folder()
    failures: list[ConfigError] = []
    wanted = names or assets.FOR_DETECTORS
    for name in wanted:
        if name not in assets.ASSETS:
            raise ConfigError(f"no asset is called {name!r}; known: {', '.join(assets.ASSETS)}")
        try:
            path = assets.install(assets.ASSETS[name], base, mirror=mirror, report=typer.echo)
            typer.echo(f"{name}: {path}")
        except ConfigError as error:
            failures.append(error)
    if failures and (names or len(failures) == len(wanted)):
        raise failures[0]


@bundle_app.command("show")
def bundle_show(
    path: Annotated[str, typer.Argument(help="The directory; default: the bundled one.")] = "",
) -> None:
    """Print what a bundle is and what was measured of it."""
    from rich.console import Console

    from streamer import bundle, bundle_view

    bundle_view.show(bundle.load(bundle.path_of(path)), Console())


@bundle_app.command("verify")
def bundle_verify(
    path: Annotated[str, typer.Argument(help="The directory; default: the bundled one.")] = "",
) -> None:
    """Check a bundle's hashes and that this machine computes what its manifest promises."""
    from rich.console import Console

    from streamer import bundle, bundle_view

    bundle_view.verify(bundle.load(bundle.path_of(path)), Console())


@keys_app.command("generate")
def keys_generate(
    name: Annotated[str, typer.Argument(help="Whose keys: the daemon's or one subscriber's.")],
    folder: Annotated[
        Path, typer.Option("--folder", metavar="DIR", help="Where to write both files.")
    ] = Path(),
) -> None:
    """Make a key pair: NAME.key is public, NAME.key_secret is for its owner alone.

    The daemon needs its own secret file (publish.server_secret_key) and a folder of the
    subscribers' public ones (publish.authorized_keys); a subscriber needs its secret file and the
    daemon's public one.
    """
    from streamer import keys

    public, secret = keys.generate(folder, name)
    typer.echo(f"public: {public}\nsecret: {secret}")


@keys_app.command("show")
def keys_show(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A key file.")],
) -> None:
    """Print the public key of a key file."""
    from streamer import keys

    typer.echo(keys.load_public(path).decode())


@engines_app.command("build")
def engines_build(
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="Compile what this daemon will load."),
    ] = None,
    compute_capability: Annotated[
        str,
        typer.Option(metavar="LIST", help="For these GPUs, such as 86,120; default: the one here."),
    ] = "",
    cache: CacheOption = "",
) -> None:
    """Compile the networks ahead of time, as in the build of an image.

    With --compute-capability no GPU is needed, but TensorRT for RTX is.
    """
    import msgspec
    from rich.console import Console

    from streamer import config as configuration
    from streamer import engines_cli, logs
    from streamer.clock import SystemClock

    logs.configure("warning", "auto", clock=SystemClock())
    loaded = None if config is None else configuration.load(config)
    engine = configuration.Engine() if loaded is None else loaded.engine
    engines_cli.build(
        Console(),
        bundle=configuration.Bundle() if loaded is None else loaded.bundle,
        engine=msgspec.structs.replace(engine, cache=cache or engine.cache),
        detector=configuration.Detector() if loaded is None else loaded.detector,
        architectures=engines_cli.architectures_of(compute_capability),
    )


@engines_app.command("list")
def engines_list(cache: CacheOption = "") -> None:
    """Show every compiled engine and what it is for."""
    from rich.console import Console

    from streamer import engines_cli
    from streamer.engine.cache import folder_of

    engines_cli.show(Console(), folder_of(cache))


@engines_app.command("clear")
def engines_clear(cache: CacheOption = "") -> None:
    """Remove every compiled engine."""
    from rich.console import Console

    from streamer import engines_cli
    from streamer.engine.cache import folder_of

    engines_cli.clear(Console(), folder_of(cache))


def main() -> None:
    """Run the command line; an expected error is one line on stderr and its exit code."""
    try:
        app(standalone_mode=True)
    except StreamerError as error:
        hint = "configuration error" if isinstance(error, ConfigError) else "error"
        sys.stderr.write(f"streamer: {hint}: {error}\n")
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:
        raise SystemExit(0) from None  # the reader of a pipe left, as `head` does
