"""The search for a learning rate finds where a loss falls fastest, and draws it."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import pytest

from streamer.errors import ConfigError
from training.rate import find_rate, rate_section, suggested

if TYPE_CHECKING:
    from training.data.faces import FaceSet
    from training.recipes import TrainConfig


def test_suggestion_is_the_steepest_fall() -> None:
    """Of a loss that falls like a logistic curve around 1e-3, the middle is found."""
    rates = [10 ** (-5 + 4 * i / 80) for i in range(81)]
    losses = [1 / (1 + math.exp(3 * (math.log10(r) + 3))) for r in rates]
    assert suggested(rates, losses) == pytest.approx(1e-3, rel=0.15)


@pytest.mark.parametrize(
    ("losses", "message"), [([1.0] * 5, "blew up at once"), ([1.0 + i for i in range(40)], "never")]
)
def test_a_search_without_a_fall_says_so(losses: list[float], message: str) -> None:
    """A loss that explodes or only rises gives no rate."""
    with pytest.raises(ConfigError, match=message):
        suggested([10.0 ** (i / 10 - 5) for i in range(len(losses))], losses)


def test_search_on_drawn_faces(faces: FaceSet, tiny: TrainConfig) -> None:
    """Rates rise, the search ends where the loss blows up or at 1, and the page shows the rate."""
    shares: list[float] = []
    found = find_rate(tiny, faces, steps=60, tick=shares.append)
    assert found.rates_S == sorted(found.rates_S)
    assert 1e-5 < found.rate < 1.0
    assert len(shares) >= len(found.losses_S)
    assert f"{found.rate:.2g}" in rate_section(found).text
    assert json.dumps(found.rates_S)
