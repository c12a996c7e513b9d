"""Home Assistant's MQTT discovery: one device a camera, with its entities.

Source: home-assistant.io, "MQTT", sections "MQTT discovery", "Single component discovery payload"
and "Using availability topics"; the form with a topic an entity works in every version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from streamer import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DISCOVERY_PREFIX", "discovery"]

DISCOVERY_PREFIX: Final = "homeassistant"
"""Where Home Assistant listens unless told otherwise."""

_ENTITIES: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "connection": (
        "binary_sensor",
        {
            "name": "Connection",
            "device_class": "connectivity",
            "entity_category": "diagnostic",
            "value_template": "{{ 'ON' if value_json.online else 'OFF' }}",
        },
    ),
    "faces": (
        "sensor",
        {
            "name": "Faces",
            "icon": "mdi:account-multiple",
            "state_class": "measurement",
            "value_template": "{{ value_json.faces }}",
        },
    ),
    "expression": (
        "sensor",
        {
            "name": "Expression",
            "icon": "mdi:emoticon-outline",
            "value_template": "{{ value_json.expression }}",  # null becomes None: not known
        },
    ),
}
"""Component and options of each entity, by the last part of its id."""


def discovery(
    camera: str, *, discovery_prefix: str, prefix: str, state_topic: str, status_topic: str
) -> Iterator[tuple[str, bytes]]:
    """Yield topic and payload of each entity of a camera; an empty payload removes it again.

    Args:
        camera: its configured name.
        discovery_prefix: where Home Assistant listens.
        prefix: of this bridge's topics; part of the ids, so that two bridges can share a broker.
        state_topic: where the camera's state is published as JSON.
        status_topic: ``online`` or ``offline``: whether state is to be trusted.
    """
    node = f"{prefix.replace('/', '_')}_{camera}"
    for entity, (component, options) in _ENTITIES.items():
        payload: dict[str, Any] = {
            **options,
            "unique_id": f"{node}_{entity}",
            "state_topic": state_topic,
            "availability_topic": status_topic,
            "device": {
                "identifiers": [node],
                "name": camera,
                "manufacturer": "emotion-streamer",
                "model": "camera",
                "sw_version": __version__,
            },
            "origin": {"name": "emotion-streamer", "sw_version": __version__},
        }
        yield f"{discovery_prefix}/{component}/{node}/{entity}/config", msgspec.json.encode(payload)
