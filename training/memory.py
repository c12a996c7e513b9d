"""What a temporal head remembers of a face, behind one interface: four networks, or nothing.

Each reads a whole sequence at once when it learns and one step with explicit state when it runs;
both give the same. A state is a set of named arrays (L, N, U) that begin with zeros, so that any
runtime can keep one a track without knowing what is in it.

Legend: B and N rows, T steps, D features, L rows of a state, U units, W steps of a window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Attention", "Convolutions", "Gru", "Lstm", "Memory", "Shapes"]

Shapes = dict[str, tuple[int, int]]
"""Of a state: each array's name with its (L, U)."""

_TAPS = 3  # of a temporal convolution; its reach then doubles with each layer
_HEADS = 4
_HIDDEN = -1e4  # added to the score of a step that was not; still a number in half precision


class Memory(Protocol):
    """A causal network over features; also an ``nn.Module``."""

    shapes: Shapes
    units: int

    def sequence(self, x_BTD: Tensor, lengths_B: Tensor | None) -> Tensor:
        """Read sequences from a zero state; return (B, T, units)."""
        ...

    def step(self, x_ND: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Advance by one observation; return (N, units) and the new states, in ``shapes``' order.

        Written in plain operations, so that any runtime can run it.
        """
        ...


class Lstm(nn.Module):
    """Source: Hochreiter & Schmidhuber 1997, "Long Short-Term Memory"."""

    def __init__(self, features: int, units: int, layers: int) -> None:
        """Build for D features."""
        super().__init__()
        self.units = units
        self.shapes: Shapes = {"h": (layers, units), "c": (layers, units)}
        self.net = nn.LSTM(features, units, layers, batch_first=True)

    def sequence(self, x_BTD: Tensor, lengths_B: Tensor | None) -> Tensor:
        """See ``Memory``."""
        return _packed(self.net, x_BTD, lengths_B)

    def step(self, x_ND: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See ``Memory``."""
        h_LNU, c_LNU = states
        x, hidden, cells = x_ND, [], []
        for layer, (w_in, w_h, b_in, b_h) in enumerate(self.net.all_weights):
            gates = x @ w_in.T + h_LNU[layer] @ w_h.T + (b_in + b_h)
            let_in, forget, value, let_out = gates.chunk(4, dim=1)
            kept = torch.sigmoid(forget) * c_LNU[layer]
            cell = kept + torch.sigmoid(let_in) * torch.tanh(value)
            x = torch.sigmoid(let_out) * torch.tanh(cell)
            hidden.append(x)
            cells.append(cell)
        return x, [torch.stack(hidden), torch.stack(cells)]


class Gru(nn.Module):
    """Source: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder"."""

    def __init__(self, features: int, units: int, layers: int) -> None:
        """Build for D features."""
        super().__init__()
        self.units = units
        self.shapes: Shapes = {"h": (layers, units)}
        self.net = nn.GRU(features, units, layers, batch_first=True)

    def sequence(self, x_BTD: Tensor, lengths_B: Tensor | None) -> Tensor:
        """See ``Memory``."""
        return _packed(self.net, x_BTD, lengths_B)

    def step(self, x_ND: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See ``Memory``."""
        (h_LNU,) = states
        x, hidden = x_ND, []
        for layer, (w_in, w_h, b_in, b_h) in enumerate(self.net.all_weights):
            of_input = (x @ w_in.T + b_in).chunk(3, dim=1)
            of_state = (h_LNU[layer] @ w_h.T + b_h).chunk(3, dim=1)
            reset = torch.sigmoid(of_input[0] + of_state[0])
            keep = torch.sigmoid(of_input[1] + of_state[1])
            value = torch.tanh(of_input[2] + reset * of_state[2])
            x = (1.0 - keep) * value + keep * h_LNU[layer]
            hidden.append(x)
        return x, [torch.stack(hidden)]


class Convolutions(nn.Module):
    """Causal convolutions over time, each layer reaching twice as far back as the one before.

    The state holds what each layer still has to see again of its own input.

    Source: Bai et al. 2018, "An Empirical Evaluation of Generic Convolutional and Recurrent
    Networks for Sequence Modeling", arXiv 1803.01271.
    """

    def __init__(self, features: int, units: int, layers: int) -> None:
        """Build for D features."""
        super().__init__()
        self.units = units
        self.reach = [(_TAPS - 1) * 2**layer for layer in range(layers)]
        self.shapes: Shapes = {f"past{i}": (n, units) for i, n in enumerate(self.reach)}
        self.narrow = nn.Linear(features, units)
        self.layers = nn.ModuleList(
            nn.Conv1d(units, units, _TAPS, dilation=2**layer) for layer in range(layers)
        )

    def _convolutions(self) -> list[nn.Conv1d]:
        return cast("list[nn.Conv1d]", list(self.layers))

    def sequence(self, x_BTD: Tensor, lengths_B: Tensor | None) -> Tensor:  # noqa: ARG002 - causal
        """See ``Memory``; what follows a row's length cannot reach back."""
        x_BUT: Tensor = self.narrow(x_BTD).transpose(1, 2)
        for reach, layer in zip(self.reach, self._convolutions(), strict=True):
            x_BUT = x_BUT + F.silu(layer(F.pad(x_BUT, (reach, 0))))
        return x_BUT.transpose(1, 2)

    def step(self, x_ND: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See ``Memory``."""
        x, kept = self.narrow(x_ND), []
        for number, (past_LNU, layer) in enumerate(zip(states, self._convolutions(), strict=True)):
            window = torch.cat([past_LNU, x[None]])
            taps = [window[tap * 2**number] @ layer.weight[:, :, tap].T for tap in range(_TAPS)]
            x = x + F.silu(torch.stack(taps).sum(dim=0) + _bias(layer))
            kept.append(window[1:])
        return x, kept


class _Look(nn.Module):
    """One layer of attention to the last W steps, then a small net, each beside a skip."""

    def __init__(self, units: int, window: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(units)
        self.ask, self.key, self.value = (nn.Linear(units, units) for _ in range(3))
        self.age = nn.Parameter(torch.zeros(_HEADS, window))  # oldest first
        self.out = nn.Linear(units, units)
        self.think = nn.Sequential(
            nn.LayerNorm(units), nn.Linear(units, units), nn.SiLU(), nn.Linear(units, units)
        )

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
        """Return x (..., U) with what it found in keys and values (..., W, U).

        ``seen`` (..., W) is 1 for a step that was and 0 for one before the beginning.
        """
        ask, keys, values = map(_split, (self.ask(self.norm(x)), keys, values))
        scores = (ask.unsqueeze(-3) * keys).sum(-1).transpose(-1, -2) / ask.shape[-1] ** 0.5
        scores = scores + self.age + _HIDDEN * (1.0 - seen.unsqueeze(-2))
        share = scores.softmax(dim=-1).transpose(-1, -2).unsqueeze(-1)
        return self._thought(x, (share * values).sum(-3))

    def whole(self, x_BTU: Tensor, keys_BTU: Tensor, values_BTU: Tensor) -> Tensor:
        """Return what ``forward`` does of all steps, by one product of all with all.

        The window is a band of that product, so no window is ever copied: W times less memory.
        """
        ask, keys, values = map(_split, (self.ask(self.norm(x_BTU)), keys_BTU, values_BTU))
        scores = torch.einsum("bthu,bshu->bhts", ask, keys) / ask.shape[-1] ** 0.5
        steps = torch.arange(x_BTU.shape[1], device=x_BTU.device)
        window = self.age.shape[1]
        ago_TT = steps[:, None] - steps
        scores = scores + self.age[:, (window - 1 - ago_TT).clamp(0, window - 1)]
        scores = scores.masked_fill((ago_TT < 0) | (ago_TT >= window), float("-inf"))
        return self._thought(x_BTU, torch.einsum("bhts,bshu->bthu", scores.softmax(-1), values))

    def _thought(self, x: Tensor, found: Tensor) -> Tensor:
        x = x + self.out(found.flatten(-2))
        result: Tensor = x + self.think(x)
        return result


def _split(x: Tensor) -> Tensor:
    """Deal the last axis to the heads."""
    return x.reshape(*x.shape[:-1], _HEADS, x.shape[-1] // _HEADS)


class Attention(nn.Module):
    """Attention from each step to the last W, itself among them, with a learned weight of age.

    The state holds the keys and values of the W - 1 steps before, and which of them there were.

    Source: Vaswani et al. 2017, "Attention Is All You Need", arXiv 1706.03762.
    """

    def __init__(self, features: int, units: int, layers: int, window: int) -> None:
        """Build for D features; ``units`` is a multiple of 4, the number of heads."""
        super().__init__()
        self.units, self.window = units, window
        past = window - 1
        self.shapes: Shapes = {"seen": (past, 1)}
        for i in range(layers):
            self.shapes |= {f"keys{i}": (past, units), f"values{i}": (past, units)}
        self.narrow = nn.Linear(features, units)
        self.layers = nn.ModuleList(_Look(units, window) for _ in range(layers))

    def _looks(self) -> list[_Look]:
        return cast("list[_Look]", list(self.layers))

    def sequence(self, x_BTD: Tensor, lengths_B: Tensor | None) -> Tensor:  # noqa: ARG002 - causal
        """See ``Memory``; what follows a row's length cannot reach back."""
        x = self.narrow(x_BTD)
        for layer in self._looks():
            normed = layer.norm(x)
            x = layer.whole(x, layer.key(normed), layer.value(normed))
        result: Tensor = x
        return result

    def step(self, x_ND: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See ``Memory``."""
        x = self.narrow(x_ND)
        seen = torch.cat([states[0], torch.ones_like(x[None, :, :1])])
        kept = [seen[1:]]
        for i, layer in enumerate(self._looks()):
            normed = layer.norm(x)
            keys = torch.cat([states[1 + 2 * i], layer.key(normed)[None]])
            values = torch.cat([states[2 + 2 * i], layer.value(normed)[None]])
            kept += [keys[1:], values[1:]]
            x = layer(x, keys.transpose(0, 1), values.transpose(0, 1), seen[..., 0].T)
        return x, kept


def _bias(layer: nn.Conv1d) -> Tensor:
    if layer.bias is None:
        raise TypeError("a temporal convolution has a bias")
    return layer.bias


def _packed(net: nn.LSTM | nn.GRU, x_BTD: Tensor, lengths_B: Tensor | None) -> Tensor:
    if lengths_B is None:
        hidden: Tensor = net(x_BTD)[0]
        return hidden
    packed = nn.utils.rnn.pack_padded_sequence(
        x_BTD, lengths_B.cpu(), batch_first=True, enforce_sorted=False
    )
    out, _ = nn.utils.rnn.pad_packed_sequence(
        net(packed)[0], batch_first=True, total_length=x_BTD.shape[1]
    )
    return out
