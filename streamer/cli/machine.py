"""What this machine can do and holds: bench, assets, engines, bundle, keys."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from streamer.cli.options import CacheOption, FolderOption, MirrorOption
from streamer.errors import ConfigError, StreamerError

__all__ = ["assets_app", "bench", "bundle_app", "engines_app", "keys_app"]

assets_app = typer.Typer(help="Third-party model files: the face detectors.", no_args_is_help=True)
engines_app = typer.Typer(help="Engines compiled for NVIDIA GPUs.", no_args_is_help=True)
bundle_app = typer.Typer(help="Look into a model bundle.", no_args_is_help=True)
keys_app = typer.Typer(help="CURVE keys of the daemon and its subscribers.", no_args_is_help=True)


def bench(
    video: Annotated[
        list[Path] | None,
        typer.Option(metavar="CLIP", help="What the cameras show; default: the built-in feed."),
    ] = None,
    cameras: Annotated[
        int, typer.Option(min=0, max=1000, help="Measure so many; 0: search the capacity.")
    ] = 0,
    seconds: Annotated[float, typer.Option(min=1, help="Of each load, or each runtime.")] = 15,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Measure the same shared by so many processes too.")
    ] = 1,
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
    inputs: Annotated[
        bool,
        typer.Option("--inputs", help="Also cameras that show nobody, and cameras of 1080p."),
    ] = False,
    scale: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Measure nothing: what 100 and 1,000 cameras need, by a report."
        ),
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
    from rich.console import Console

    from streamer import logs
    from streamer.bench import run as benchmark
    from streamer.clock import SystemClock

    logs.configure("error", "console", clock=SystemClock())
    if scale is not None:
        from streamer.bench import scaling

        scaling.scale(scale, Console())
        return
    places = {"--json": json, "--save": save}
    for option, path in places.items():
        _check_place(option, path)
    before = None if compare is None else benchmark.saved(compare)
    if engine:
        from streamer.bench import engine as engines

        chosen = benchmark.settings(config, mirror=mirror)
        rows = engines.bench(chosen, seconds=seconds, console=Console())
        _write("--json", json, rows)
        return
    plan = benchmark.Plan(
        clips=tuple(video or ()), seconds=seconds, cameras=cameras, workers=workers, inputs=inputs
    )
    console = Console()
    report = benchmark.bench(
        benchmark.settings(config, mirror=mirror), plan, console, Console(stderr=True)
    )
    if before is not None:
        benchmark.compare(console, f"against {compare}", before, report)
    for option, path in places.items():
        _write(option, path, report)


def _check_place(option: str, path: Path | None) -> None:
    """Refuse a place for a report before the minutes of work that it takes, and not after them."""
    if path is None:
        return
    try:
        if not path.parent.is_dir():
            raise ConfigError(f"{option} {path}: there is no folder {path.parent}; make it first")
        if path.is_dir():
            raise ConfigError(f"{option} {path}: is a folder; name a file in it")
        place = path if path.exists() else path.parent
    except OSError as error:
        raise ConfigError(f"{option} {path}: {error.strerror}; name another file") from None
    if not os.access(place, os.W_OK):
        raise ConfigError(f"{option} {path}: may not be written here; name another file")


def _write(option: str, path: Path | None, report: object) -> None:
    import msgspec

    if path is None:
        return
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    except OSError as error:
        raise StreamerError(f"{option} {path}: {error.strerror}") from None


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
