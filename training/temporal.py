"""The temporal head: a causal network over the face network's features, or a moving average alone.

A network adds a correction to a short moving average of the frame's own logits (a residual skip),
so that an untrained head already is a steady frame classifier. The kind "ema" is the baseline that
a network has to beat: the moving average of the frame's probabilities, with nothing to learn.
Every step carries its state explicitly, see ``training.memory``.

Legend: B rows, T steps, N faces, D features, L rows of a state, U units, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from streamer.errors import ConfigError
from training.memory import Attention, Convolutions, Gru, Lstm

if TYPE_CHECKING:
    from training.memory import Memory, Shapes

__all__ = ["KINDS", "TemporalConfig", "TemporalHead"]

KINDS = ("lstm", "gru", "tcn", "attention", "ema")
"""What a head can be."""
_LEAST = 1e-6  # of a probability whose logarithm is taken
_MEAN = "mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class TemporalConfig:
    """Shape and time of the head.

    Attributes:
        kind: "lstm", "gru", "tcn" (causal convolutions), "attention" or "ema".
        layers: of the network; a tcn of three layers sees 15 steps, one of four 31.
        units: of a layer; a multiple of 4 for attention.
        window: steps that attention sees, the newest among them.
        step_s: seconds between two observations; the daemon analyses at this pace.
        dropout: on the features, in training.
        newest: weight of the newest frame in the moving average: of the frame logits that a
            network's correction is added to, or of the frame probabilities for "ema"; 1 takes
            each frame alone.
    """

    kind: str = "lstm"
    layers: int = 1
    units: int = 96
    window: int = 16
    step_s: float = 0.1
    dropout: float = 0.4
    newest: float = 0.65


class TemporalHead(nn.Module):
    """A memory with a residual skip from the moving average of the frame's logits."""

    def __init__(self, config: TemporalConfig, classifier: nn.Linear) -> None:
        """Build over a frame classifier, which is copied and stays as it is.

        Args:
            config: shape and time.
            classifier: from D features to K calibrated logits.

        Raises:
            ConfigError: when there is no such kind.
        """
        super().__init__()
        self.config = config
        features, classes = classifier.in_features, classifier.out_features
        self.classifier = nn.Linear(features, classes)
        self.classifier.load_state_dict(classifier.state_dict())
        self.classifier.requires_grad_(requires_grad=False)
        self.dropout = nn.Dropout(config.dropout)
        self.memory: Memory | None = _memory(config, features)
        self.correction: nn.Linear | None = None
        if self.memory is not None:
            self.correction = nn.Linear(config.units, classes)
            nn.init.zeros_(self.correction.weight)
            nn.init.zeros_(self.correction.bias)

    @property
    def shapes(self) -> Shapes:
        """Each state's name with its (L, U): the memory's, then the moving average's.

        The average's last unit is its weight: what share of it real frames make up.
        """
        own: Shapes = {} if self.memory is None else self.memory.shapes
        return {**own, _MEAN: (1, self.classifier.out_features + 1)}

    def zeros(self, rows: int) -> list[Tensor]:
        """Return the states of faces never seen, in the order of ``shapes``."""
        return [torch.zeros(high, rows, units) for high, units in self.shapes.values()]

    def forward(self, features_BTD: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Read whole sequences from a zero state.

        Args:
            features_BTD: float32; shorter rows are padded at the end.
            lengths_B: true lengths, int64; None: all of length T.

        Returns:
            logits_BTK: float32; what follows a row's length means nothing.
        """
        frames = self.classifier(features_BTD)
        if self.memory is None or self.correction is None:
            mean: Tensor = self._averaged(frames.softmax(dim=-1)).clamp(min=_LEAST).log()
            return mean
        x = self.dropout(features_BTD)
        hidden = self.memory.sequence(x, lengths_B)
        logits: Tensor = self._averaged(frames) + self.correction(hidden)
        return logits

    def step(self, features_ND: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Advance by one observation; written in plain operations, so that any runtime can run it.

        Args:
            features_ND: float32.
            states: (L, N, U) float32 each, in the order of ``shapes``; zeros for a new face.

        Returns:
            logits_NK, then the new states; the arguments are not modified.
        """
        frame = self.classifier(features_ND)
        if self.memory is None or self.correction is None:
            mean, memory = self._mean_step(frame.softmax(dim=-1), states[-1])
            return mean.clamp(min=_LEAST).log(), memory
        hidden, kept = self.memory.step(features_ND, states[:-1])
        mean, memory = self._mean_step(frame, states[-1])
        return mean + self.correction(hidden), *kept, memory

    def _mean_step(self, newest_NK: Tensor, mean_1NU: Tensor) -> tuple[Tensor, Tensor]:
        """Return the moving average and its state.

        An average of probabilities begins with the first frame in full, as ``smoothing.ema`` does;
        one of logits weighs its first frames by their age alone, which lets the second frame of a
        face count for more.
        """
        past, filled = mean_1NU[0][:, :-1], mean_1NU[0][:, -1:]
        keep = 1.0 - self.config.newest
        if self.memory is None:
            mean = newest_NK + keep * filled * (past - newest_NK)
            return mean, torch.cat([mean, torch.ones_like(filled)], dim=1)[None]
        # A convex sum, written out: not every runtime knows lerp.
        total = keep * past + self.config.newest * newest_NK
        weight = keep * filled + self.config.newest
        return total / weight, torch.cat([total, weight], dim=1)[None]

    def _averaged(self, values_BTK: Tensor) -> Tensor:
        state = torch.zeros(1, len(values_BTK), values_BTK.shape[2] + 1, dtype=values_BTK.dtype)
        state, out = state.to(values_BTK.device), []
        for newest in values_BTK.unbind(dim=1):
            mean, state = self._mean_step(newest, state)
            out.append(mean)
        return torch.stack(out, dim=1)


def _memory(config: TemporalConfig, features: int) -> Memory | None:
    match config.kind:
        case "lstm":
            return Lstm(features, config.units, config.layers)
        case "gru":
            return Gru(features, config.units, config.layers)
        case "tcn":
            return Convolutions(features, config.units, config.layers)
        case "attention":
            return Attention(features, config.units, config.layers, config.window)
        case "ema":
            return None
        case _:
            raise ConfigError(f"head.kind {config.kind!r} is none of {', '.join(KINDS)}")
