"""The temporal head: a causal recurrent net over the face network's features.

It adds a correction to a short moving average of the frame's own logits (a residual skip), so that
an untrained head already is a steady frame classifier. Every step carries its state explicitly: the
LSTM's, and behind it in the hidden array the sums of the moving average.

Legend: B rows, T steps, N faces, D features, L layers, U units, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["TemporalConfig", "TemporalHead"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TemporalConfig:
    """Shape and time of the head.

    Attributes:
        layers: L.
        units: of the LSTM.
        step_s: seconds between two observations; the daemon analyses at this pace.
        dropout: on the features, in training.
        newest: weight of the newest frame in the moving average of the frame logits that the
            correction is added to; 1 takes each frame alone.
    """

    layers: int = 1
    units: int = 96
    step_s: float = 0.1
    dropout: float = 0.4
    newest: float = 0.65


class TemporalHead(nn.Module):
    """LSTM with a residual skip from the moving average of the frame's logits.

    Source: Hochreiter & Schmidhuber 1997, "Long Short-Term Memory".
    """

    def __init__(self, config: TemporalConfig, classifier: nn.Linear) -> None:
        """Build over a frame classifier, which is copied and stays as it is.

        Args:
            config: shape and time.
            classifier: from D features to K calibrated logits.
        """
        super().__init__()
        self.config = config
        self.classifier = nn.Linear(classifier.in_features, classifier.out_features)
        self.classifier.load_state_dict(classifier.state_dict())
        self.classifier.requires_grad_(requires_grad=False)
        self.dropout = nn.Dropout(config.dropout)
        self.lstm = nn.LSTM(classifier.in_features, config.units, config.layers, batch_first=True)
        self.correction = nn.Linear(config.units, classifier.out_features)
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)

    @property
    def state_units(self) -> int:
        """U: the LSTM's own units, then the moving average's K sums and its weight."""
        return self.config.units + self.classifier.out_features + 1

    def forward(self, features_BTD: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Read whole sequences from a zero state.

        Args:
            features_BTD: float32; shorter rows are padded at the end.
            lengths_B: true lengths, int64; None: all of length T.

        Returns:
            logits_BTK: float32; what follows a row's length means nothing.
        """
        steps = features_BTD.shape[1]
        x = self.dropout(features_BTD)
        if lengths_B is None:
            hidden, _ = self.lstm(x)
        else:
            packed = nn.utils.rnn.pack_padded_sequence(
                x, lengths_B.cpu(), batch_first=True, enforce_sorted=False
            )
            out, _ = self.lstm(packed)
            hidden, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=steps)
        logits: Tensor = self._averaged(self.classifier(features_BTD)) + self.correction(hidden)
        return logits

    def _averaged(self, logits_BTK: Tensor) -> Tensor:
        """Return the causal moving average, free of the bias towards its start."""
        total = weight = torch.zeros_like(logits_BTK[:, 0])
        out = []
        for logits in logits_BTK.unbind(dim=1):
            total = torch.lerp(total, logits, self.config.newest)
            weight = torch.lerp(weight, torch.ones_like(weight), self.config.newest)
            out.append(total / weight)
        return torch.stack(out, dim=1)

    def step(self, features_ND: Tensor, h_LNU: Tensor, c_LNU: Tensor) -> tuple[Tensor, ...]:
        """Advance by one observation; written in plain operations, so that any runtime can run it.

        Args:
            features_ND: float32.
            h_LNU: hidden state, float32; zeros for a new face.
            c_LNU: cell state, likewise.

        Returns:
            logits_NK, h_LNU, c_LNU: the new state.
        """
        units, last = self.config.units, self.config.layers - 1
        x = features_ND
        hidden: list[Tensor] = []
        cells: list[Tensor] = []
        for layer in range(self.config.layers):
            w_in, w_h, b_in, b_h = self.lstm.all_weights[layer]
            gates = x @ w_in.T + h_LNU[layer][:, :units] @ w_h.T + (b_in + b_h)
            let_in, forget, value, let_out = gates.chunk(4, dim=1)
            kept = torch.sigmoid(forget) * c_LNU[layer][:, :units]
            cell = kept + torch.sigmoid(let_in) * torch.tanh(value)
            x = torch.sigmoid(let_out) * torch.tanh(cell)
            hidden.append(x)
            cells.append(cell)
        frame = self.classifier(features_ND)
        newest = torch.cat([frame, torch.ones_like(frame[:, :1])], dim=1)
        # A convex sum, written out: not every runtime knows lerp.
        memory = (1.0 - self.config.newest) * h_LNU[last][:, units:] + self.config.newest * newest
        logits = memory[:, :-1] / memory[:, -1:] + self.correction(x)
        h = torch.stack([torch.cat([v, memory], dim=1) for v in hidden])
        c = torch.stack([torch.cat([v, torch.zeros_like(memory)], dim=1) for v in cells])
        return logits, h, c
