"""What ``streamer bundle`` prints: a bundle's origin, its measured figures, its parity here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from streamer.bundle import PARITY_TOLERANCE, Metric, verify_parity
from streamer.engine.onnx import OnnxEngine

if TYPE_CHECKING:
    from rich.console import Console

    from streamer.bundle import Bundle

__all__ = ["show", "verify"]


def show(bundle: Bundle, console: Console) -> None:
    """Print a bundle's manifest for people."""
    manifest = bundle.manifest
    facts = Table.grid(padding=(0, 2))
    temporal = manifest.temporal
    for name, value in {
        "bundle": bundle.identity,
        "path": str(bundle.path),
        "classes": ", ".join(manifest.classes),
        "input": f"{manifest.input.size_px} x {manifest.input.size_px} {manifest.input.colour}, "
        f"aligned by the {manifest.input.alignment}",
        "temporal head": f"{temporal.kind}, {temporal.layers} x {temporal.units} units, "
        f"a step each {temporal.step_s:g} s",
        "trained": f"{manifest.training.date}, recipe {manifest.training.recipe}, "
        f"seeds {', '.join(map(str, manifest.training.seeds))}, "
        f"commit {manifest.training.commit[:12]}",
    }.items():
        facts.add_row(name, value)
    console.print(facts)
    table = Table(title="measured", title_justify="left")
    for column in ("metric", "value", "95 % interval", "data set", "split", "n", "date"):
        table.add_column(column)
    for metric in manifest.metrics:
        table.add_row(
            metric.name,
            f"{metric.value:.4g}",
            _interval(metric),
            metric.dataset,
            metric.split,
            str(metric.n),
            metric.date,
        )
    console.print(table)


def verify(bundle: Bundle, console: Console) -> None:
    """Compute the parity samples on this machine and print the largest difference.

    Raises:
        BundleError: when it is too large.
    """
    features = OnnxEngine(bundle.features_path, threads=1)
    temporal = OnnxEngine(bundle.temporal_path, threads=1)
    worst = verify_parity(bundle, features, temporal)
    console.print(
        f"{bundle.identity}: hashes right; {features.name} differs from the exported "
        f"probabilities by at most {worst:.1e} (accepted {PARITY_TOLERANCE:g})"
    )


def _interval(metric: Metric) -> str:
    if metric.low is None or metric.high is None:
        return ""
    return f"{metric.low:.4g} - {metric.high:.4g}"
