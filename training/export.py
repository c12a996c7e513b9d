"""Write a bundle: two ONNX graphs, the manifest, the samples that prove them and the model card.

Legend: N faces, H W pixels, D features, T steps, K classes.
"""

from __future__ import annotations

import copy
import shutil
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from streamer import bundle as bundles
from streamer import preprocess
from training.data.faces import CLASSES
from training.fuse import fused
from training.outputs import bundle_place

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from streamer.types import F32, U8
    from training.model import FaceNet
    from training.temporal import TemporalHead

__all__ = ["Exported", "OnnxFile", "calibrated", "export", "sample_faces"]

OPSET = 18
"""Read by onnxruntime 1.14 and later and by TensorRT 10 and 11."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What goes into a bundle.

    Attributes:
        name: of the bundle.
        net: the face network with calibrated logits (see ``calibrated``).
        head: the temporal head over the same classifier.
        temperature: by which the classifier was divided, for the record.
        training: where the weights come from.
        metrics: what was measured on these very weights.
        card: the model card, Markdown.
    """

    name: str
    net: FaceNet
    head: TemporalHead
    temperature: float
    training: bundles.Training
    card: str
    metrics: list[bundles.Metric] = field(default_factory=list)


class OnnxFile:
    """An ONNX file on one thread: the exporter's own proof, by the runtime that ships."""

    name = "onnxruntime, one thread"

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )

    def run(self, inputs: Mapping[str, F32]) -> dict[str, F32]:
        """Compute all outputs."""
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))

    def close(self) -> None:
        """Do nothing: the session goes with this object."""


class _Step(nn.Module):
    """``TemporalHead.step`` as a module's forward, which the exporter wants."""

    def __init__(self, head: TemporalHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        return self.head.step(features, *states)


def calibrated(net: FaceNet, prior_K: F32, share: float, temperature: float) -> FaceNet:
    """Return a copy whose logits carry a share of the prior and the temperature.

    Both fold into the last linear layer: ``(W x + b + share * log prior) / temperature``.
    """
    out = copy.deepcopy(net).eval()
    with torch.no_grad():
        offset = share * torch.log(torch.from_numpy(prior_K))
        out.classifier.bias.copy_((out.classifier.bias + offset) / temperature)
        out.classifier.weight.div_(temperature)
    return out


def sample_faces(size_px: int, n: int = 6) -> U8:
    """Draw simple faces, so that a bundle's samples show nobody.

    Returns:
        uint8 (n, size_px, size_px), always the same.
    """
    rng = np.random.default_rng(0)
    big = 4 * size_px
    out = []
    for i in range(n):
        picture = np.full((big, big), 60 + 20 * i, np.uint8)
        cv2.ellipse(picture, (big // 2, big // 2), (big * 3 // 8, big // 2), 0, 0, 360, 190, -1)
        for x in (0.315, 0.685):  # where preprocess puts the eyes
            centre = (int(x * big), int(preprocess.EYE_HEIGHT * big))
            cv2.ellipse(picture, centre, (big // 14, big // (18 + 6 * i)), 0, 0, 360, 40, -1)
        bend = int((i - n / 2) * big / 20)
        curve = [
            (int(big * (0.35 + 0.03 * k)), big * 3 // 4 + bend * (k - 5) ** 2 // 25)
            for k in range(11)
        ]
        cv2.polylines(
            picture, [np.array(curve, np.int32)], isClosed=False, color=50, thickness=big // 30
        )
        small = cv2.resize(picture, (size_px, size_px), interpolation=cv2.INTER_AREA)
        noisy = small.astype(np.float64) + rng.normal(0.0, 3.0 * i, small.shape)
        out.append(noisy.clip(0, 255).astype(np.uint8))
    return np.stack(out)


def export(what: Exported, out: Path) -> float:
    """Write the bundle and prove it in onnxruntime; an older one there is replaced when done.

    Args:
        what: networks and their record.
        out: the bundle's directory.

    Returns:
        The largest difference of a probability between PyTorch and onnxruntime.

    Raises:
        BundleError: when they differ by more than a bundle may.
        ConfigError: when the directory holds files and is no bundle.
    """
    out = bundle_place(out)
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    net, head = what.net.eval(), what.head.eval()
    size, d = net.config.size_px, net.config.features
    _graph(
        fused(net),  # the samples come from the network as it was trained, which proves this too
        {"faces": torch.zeros(2, 1, size, size)},
        ["features", "logits"],
        part / bundles.FEATURES,
    )
    states = dict(zip(head.shapes, head.zeros(2), strict=True))
    _graph(
        _Step(head),
        {"features": torch.zeros(2, d), **states},
        ["logits", *(f"{name}_out" for name in states)],
        part / bundles.TEMPORAL,
        states=len(states),
    )
    np.savez_compressed(part / bundles.PARITY, allow_pickle=False, **_parity(net, head))
    (part / bundles.MODEL_CARD).write_text(what.card)
    bundles.write_manifest(part, _manifest(what))
    worst = bundles.verify_parity(
        bundles.load(part), OnnxFile(part / bundles.FEATURES), OnnxFile(part / bundles.TEMPORAL)
    )
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)
    return worst


def _graph(
    model: nn.Module, inputs: dict[str, Tensor], outputs: list[str], path: Path, *, states: int = 0
) -> None:
    """Export with a free number of rows; it is the second axis of the last inputs, the states."""
    rows = torch.export.Dim("N", min=1, max=4096)
    axes: list[object] = [{0: rows} for _ in range(len(inputs) - states)]
    if states:
        axes.append(tuple({1: rows} for _ in range(states)))
    with warnings.catch_warnings():
        # The exporter's own use of what torch deprecates, and its renaming of equal axes.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", message=".*axis name.*", category=UserWarning)
        program = torch.onnx.export(
            model.eval(),
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=tuple(axes),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    graph = program.model_proto
    _strip(graph)
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, path)


def _strip(model: onnx.ModelProto) -> None:
    """Forget the exporter's notes: stack traces with paths of the machine that trained."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for part in (
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.initializer,
    ):
        del part.metadata_props[:]
        part.doc_string = ""


@torch.no_grad()
def _parity(net: FaceNet, head: TemporalHead) -> dict[str, F32]:
    faces = torch.from_numpy(preprocess.normalise(sample_faces(net.config.size_px), 0.0, 255.0))
    features, logits = net(faces)
    # Three faces over four steps, each row another order of the samples.
    sequence = torch.stack([features[[i, (i + 2) % 6, (i + 5) % 6]] for i in range(4)])
    through = head(sequence.transpose(0, 1)).transpose(0, 1)
    return {
        "faces_N1HW": faces.numpy(),
        "features_ND": features.numpy(),
        "logits_NK": logits.numpy(),
        "sequence_TND": sequence.numpy(),
        "sequence_logits_TNK": np.ascontiguousarray(through.numpy()),
    }


def _manifest(what: Exported) -> bundles.Manifest:
    net, head = what.net.config, what.head.config
    return bundles.Manifest(
        format=bundles.FORMAT,
        name=what.name,
        files={},
        input=bundles.Input(
            size_px=net.size_px,
            eye_distance=preprocess.EYE_DISTANCE,
            eye_height=preprocess.EYE_HEIGHT,
            margin=preprocess.BOX_HEIGHT,
        ),
        classes=list(CLASSES),
        features=net.features,
        temporal=bundles.Temporal(
            kind=head.kind,
            layers=head.layers,
            units=head.units,
            states=what.head.shapes,
            step_s=head.step_s,
        ),
        temperature=what.temperature,
        training=what.training,
        metrics=what.metrics,
    )
