"""The model bundle: a directory with a manifest, two networks and the samples that prove them.

``features.onnx`` maps ``faces`` (N, 1, H, W) to ``features`` (N, D) and ``logits`` (N, K): the
reading of a single picture. ``temporal.onnx`` is one step with explicit state: ``features`` (N, D)
and the states that the manifest names, each (L, N, U), such as ``h`` and ``c``, to ``logits``
(N, K) and the new states, ``h_out`` and ``c_out``; a track starts with zeros.
The temperature of the manifest is already in both graphs. ``features.fp16.onnx`` and
``temporal.fp16.onnx``, where a bundle has them, are the same networks in half precision, for a GPU.

Legend: N faces, H W pixels, D features, L rows of a state, U units, T steps, K classes.
"""

from __future__ import annotations

import hashlib
import struct
import zipfile
import zlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np
from msgspec import Meta

from streamer import preprocess
from streamer.errors import BundleError, EngineError

if TYPE_CHECKING:
    from streamer.stages import Engine
    from streamer.types import F32

__all__ = [
    "FORMAT",
    "HALF_TOLERANCE",
    "PARITY_TOLERANCE",
    "Bundle",
    "Input",
    "Manifest",
    "Metric",
    "Parity",
    "Temporal",
    "Training",
    "bundled_path",
    "load",
    "path_of",
    "verify_parity",
    "write_manifest",
]

FORMAT = 1
"""Version of the directory's layout; a reader refuses another."""
MANIFEST = "manifest.json"
FEATURES = "features.onnx"
TEMPORAL = "temporal.onnx"
PARITY = "parity.npz"
MODEL_CARD = "MODEL_CARD.md"
FEATURES_HALF = "features.fp16.onnx"
TEMPORAL_HALF = "temporal.fp16.onnx"
_FILES = (FEATURES, TEMPORAL, PARITY, MODEL_CARD)
_OPTIONAL = (FEATURES_HALF, TEMPORAL_HALF)
_MANIFEST_LIMIT = 1 << 20  # bytes; a real manifest is a few kB
PARITY_TOLERANCE = 1e-3
"""Largest accepted difference of any probability between the exporter and this runtime (fp32)."""
HALF_TOLERANCE = 1e-2
"""The same for networks in half precision, which the exporter proves on a validation split."""

_Positive = Annotated[int, Meta(gt=0, le=65_536)]
_StateName = Annotated[str, Meta(pattern="^[a-z][a-z0-9]{0,30}$")]
_Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Input(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the CNN wants to see: x = (pixel - mean) / std with pixels in 0..255.

    ``eye_distance`` and ``eye_height`` are shares of the crop's side, ``margin`` is the face box's
    height in crop sides; they repeat what ``streamer.preprocess`` does, so that a mismatch between
    a bundle and the program is refused instead of costing accuracy unseen.
    """

    size_px: Annotated[int, Meta(ge=16, le=512)]
    colour: str = "gray"
    mean: float = 0.0
    std: Annotated[float, Meta(gt=0)] = 255.0
    alignment: str = "eyes"
    eye_distance: float
    eye_height: float
    margin: float


class Temporal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The temporal head: its kind, its size, its states and the step it was trained at.

    Attributes:
        kind: what it is, for people; the daemon runs every kind alike.
        layers: of the network.
        units: of a layer.
        states: each state's name with its (L, U); empty, as in bundles of before there were other
            heads: ``h`` and ``c`` of an LSTM, both (layers, units).
        step_s: seconds between two observations.
    """

    kind: Annotated[str, Meta(min_length=1, max_length=40)] = "lstm"
    layers: _Positive
    units: _Positive
    states: Annotated[dict[_StateName, tuple[_Positive, _Positive]], Meta(max_length=64)] = {}
    step_s: Annotated[float, Meta(gt=0, le=10)]

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Each state's name with its (L, U)."""
        return self.states or dict.fromkeys(("h", "c"), (self.layers, self.units))

    def zeros(self, rows: int) -> dict[str, F32]:
        """Return the states of tracks never seen, by name, each (L, rows, U)."""
        return {
            name: np.zeros((high, rows, units), np.float32)
            for name, (high, units) in self.shapes.items()
        }


class Training(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the weights come from."""

    commit: str
    recipe: str
    seeds: list[int]
    data: dict[str, _Sha256]
    date: str
    config: dict[str, object] = {}


class Metric(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measured figure with what it needs to be understood; the interval is a 95 % bootstrap."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    dataset: str
    split: str
    n: int
    date: str
    note: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``manifest.json``, checked when it is read."""

    format: int
    name: Annotated[str, Meta(min_length=1, max_length=100)]
    files: dict[str, _Sha256]
    input: Input
    classes: Annotated[list[str], Meta(min_length=2, max_length=64)]
    features: _Positive
    temporal: Temporal
    temperature: Annotated[float, Meta(gt=0)] = 1.0
    training: Training
    metrics: list[Metric] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Inputs with the outputs that PyTorch computed for them at export.

    Attributes:
        faces_N1HW: normalised inputs, float32; synthetic or public-domain pictures only.
        features_ND, logits_NK: what the CNN makes of them.
        sequence_TND: features fed step by step to the temporal head from a zero state.
        sequence_logits_TNK: what the head makes of them.
    """

    faces_N1HW: F32
    features_ND: F32
    logits_NK: F32
    sequence_TND: F32
    sequence_logits_TNK: F32


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle whose files are all there and have the hashes that its manifest gives."""

    path: Path
    manifest: Manifest
    parity: Parity

    @property
    def features_path(self) -> Path:
        """The CNN's file."""
        return self.path / FEATURES

    @property
    def temporal_path(self) -> Path:
        """The temporal head's file."""
        return self.path / TEMPORAL

    @property
    def half_paths(self) -> tuple[Path, Path] | None:
        """The CNN's and the temporal head's files in half precision; None: there are none."""
        names = (FEATURES_HALF, TEMPORAL_HALF)
        if all(name in self.manifest.files for name in names):
            return self.path / FEATURES_HALF, self.path / TEMPORAL_HALF
        return None

    @property
    def identity(self) -> str:
        """Name and the first digits of a hash over both networks: what events call this bundle."""
        networks = self.manifest.files[FEATURES] + self.manifest.files[TEMPORAL]
        return f"{self.manifest.name}@{hashlib.sha256(networks.encode()).hexdigest()[:12]}"


def bundled_path() -> Path:
    """Return the directory of the bundle that ships inside the package."""
    return Path(str(files("streamer") / "bundle_default"))


def path_of(configured: str) -> Path:
    """Return the directory that ``[bundle] path`` means; empty: the bundled one."""
    return Path(configured) if configured else bundled_path()


def load(path: Path) -> Bundle:
    """Read a bundle and check its manifest, its hashes and the shapes of its samples.

    Args:
        path: the bundle's directory.

    Raises:
        BundleError: naming the file and what is wrong with it.
    """
    manifest = _read_manifest(path / MANIFEST)
    if manifest.format != FORMAT:
        raise BundleError(
            f"bundle {path}: format {manifest.format}, this version reads {FORMAT}; "
            "export the bundle again or update"
        )
    for name in (*_FILES, *(name for name in _OPTIONAL if name in manifest.files)):
        expected = manifest.files.get(name)
        if expected is None:
            raise BundleError(f"bundle {path}: the manifest does not list {name}")
        try:
            digest = file_sha256(path / name)
        except OSError as error:
            raise BundleError(f"bundle {path}: cannot read {name}: {error.strerror}") from None
        if digest != expected:
            raise BundleError(
                f"bundle {path}: {name} is damaged: its sha256 is {digest[:12]}…, the manifest "
                f"says {expected[:12]}…; install the bundle again"
            )
    bundle = Bundle(path=path, manifest=manifest, parity=_read_parity(path / PARITY))
    _check_shapes(bundle)
    return bundle


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` into a bundle's directory, with the hashes of the files there."""
    present = (*_FILES, *(name for name in _OPTIONAL if (path / name).is_file()))
    hashes = {name: file_sha256(path / name) for name in present}
    manifest = msgspec.structs.replace(manifest, files=hashes)
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (path / MANIFEST).write_bytes(text + b"\n")


def verify_parity(bundle: Bundle, features: Engine, temporal: Engine) -> float:
    """Run the samples through two engines and compare with what PyTorch computed at export.

    Batches, a batch of one and the step-by-step sequence are all compared.

    Returns:
        The largest absolute difference of any probability.

    Raises:
        BundleError: when it exceeds ``PARITY_TOLERANCE``.
    """
    try:
        worst = _worst_difference(bundle, features, temporal)
    except (EngineError, KeyError) as error:
        raise BundleError(f"bundle {bundle.path}: its networks do not fit: {error}") from None
    if not worst <= PARITY_TOLERANCE:  # also true for NaN
        raise BundleError(
            f"bundle {bundle.path}: {features.name} differs from the exported probabilities by "
            f"{worst:.2g}, accepted is {PARITY_TOLERANCE:g}; export the bundle again or choose "
            "another engine.backend"
        )
    return worst


def _worst_difference(bundle: Bundle, features: Engine, temporal: Engine) -> float:
    parity = bundle.parity
    got = features.run({"faces": parity.faces_N1HW})
    one = features.run({"faces": parity.faces_N1HW[:1]})
    worst = max(
        _difference(got["logits"], parity.logits_NK),
        _difference(one["logits"], parity.logits_NK[:1]),
    )
    rows = parity.sequence_TND.shape[1]
    states = bundle.manifest.temporal.zeros(rows)
    for step_ND, expected_NK in zip(parity.sequence_TND, parity.sequence_logits_TNK, strict=True):
        out = temporal.run({"features": step_ND, **states})
        states = {name: out[f"{name}_out"] for name in states}
        worst = max(worst, _difference(out["logits"], expected_NK))
    return worst


def file_sha256(path: Path) -> str:
    """Return the hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def softmax(logits_NK: F32) -> F32:
    """Turn logits into probabilities, row by row, without overflow."""
    shifted = logits_NK - logits_NK.max(axis=-1, keepdims=True)
    exp = np.exp(shifted)
    return exp / exp.sum(axis=-1, keepdims=True)  # type: ignore[no-any-return]


def _difference(got_NK: F32, expected_NK: F32) -> float:
    if got_NK.shape != expected_NK.shape:
        raise BundleError(f"a network gives shape {got_NK.shape}, its manifest {expected_NK.shape}")
    return float(np.abs(softmax(got_NK) - softmax(expected_NK)).max())


def _read_manifest(path: Path) -> Manifest:
    try:
        with path.open("rb") as file:
            text = file.read(_MANIFEST_LIMIT + 1)
    except OSError as error:
        raise BundleError(
            f"bundle {path.parent}: cannot read {path.name}: {error.strerror}"
        ) from None
    if len(text) > _MANIFEST_LIMIT:
        raise BundleError(f"{path}: larger than {_MANIFEST_LIMIT} bytes, not a manifest")
    try:
        return msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{path}: {error}") from None


_NO_SAMPLES = (
    *(OSError, ValueError, KeyError, EOFError, struct.error, zipfile.BadZipFile, zlib.error),
    *(NotImplementedError, RuntimeError, MemoryError),  # a compression, a cipher, a size of theirs
    TypeError,  # a single array where an archive is wanted
)
"""What NumPy and zipfile raise for damaged or hostile archives (found by fuzzing)."""


def _read_parity(path: Path) -> Parity:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return Parity(**{name: archive[name] for name in Parity.__dataclass_fields__})
    except _NO_SAMPLES as error:
        raise BundleError(f"{path}: not a set of parity samples: {error}") from None


def _check_shapes(bundle: Bundle) -> None:
    manifest, parity = bundle.manifest, bundle.parity
    size, classes = manifest.input.size_px, len(manifest.classes)
    n, t = len(parity.faces_N1HW), len(parity.sequence_TND)
    sequence = parity.sequence_TND
    rows = sequence.shape[1] if sequence.ndim == len("TND") else -1
    expected = {
        "faces_N1HW": (n, 1, size, size),
        "features_ND": (n, manifest.features),
        "logits_NK": (n, classes),
        "sequence_TND": (t, rows, manifest.features),
        "sequence_logits_TNK": (t, rows, classes),
    }
    for name, shape in expected.items():
        array = getattr(parity, name)
        if array.shape != shape or array.dtype != np.float32 or not n or not t:
            raise BundleError(
                f"bundle {bundle.path}: {PARITY}: {name} is {array.dtype} {array.shape}, "
                f"the manifest means float32 {shape}"
            )
    if len(set(manifest.classes)) != classes:
        raise BundleError(f"bundle {bundle.path}: the manifest names a class twice")
    cut = (manifest.input.eye_distance, manifest.input.eye_height, manifest.input.margin)
    ours = (preprocess.EYE_DISTANCE, preprocess.EYE_HEIGHT, preprocess.BOX_HEIGHT)
    if not np.allclose(cut, ours, atol=1e-6):
        raise BundleError(
            f"bundle {bundle.path}: trained on faces cut with eye distance, eye height and margin "
            f"{cut}, this version cuts them with {ours}; export a bundle trained on such crops"
        )
    if manifest.input.colour != "gray" or manifest.input.alignment != "eyes":
        raise BundleError(
            f"bundle {bundle.path}: this version feeds gray crops aligned by the eyes, the bundle "
            f"wants {manifest.input.colour!r} aligned by {manifest.input.alignment!r}"
        )
