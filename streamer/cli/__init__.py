"""The command line: reads options, calls the work, turns errors into one line and an exit code.

Everything heavy is imported inside the command that needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys

import typer

from streamer.cli import fleet, machine, recordings, service
from streamer.errors import ConfigError, StreamerError
from streamer.logs import redact, redact_tracebacks

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
for command in (
    service.run,
    service.check,
    service.demo,
    service.watch,
    recordings.analyse,
    recordings.record,
    machine.bench,
):
    app.command()(command)
app.add_typer(recordings.bridge_app, name="bridge")
app.add_typer(machine.assets_app, name="assets")
app.add_typer(machine.bundle_app, name="bundle")
app.add_typer(machine.engines_app, name="engines")
app.add_typer(fleet.app, name="fleet")
app.add_typer(machine.keys_app, name="keys")


def main() -> None:
    """Run the command line; an expected error is one line on stderr and its exit code."""
    redact_tracebacks()
    try:
        typer.main.get_command(app)(standalone_mode=True)  # app() would replace the hook
    except StreamerError as error:
        hint = "configuration error" if isinstance(error, ConfigError) else "error"
        sys.stderr.write(f"streamer: {hint}: {redact(str(error))}\n")
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:
        raise SystemExit(0) from None  # the reader of a pipe left, as `head` does
