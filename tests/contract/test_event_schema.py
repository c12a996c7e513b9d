"""The published schema and the published events agree, as an independent validator sees it."""

from __future__ import annotations

import copy
import json
import time
from importlib.resources import files
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from streamer.client import Subscriber
from streamer.envelope import Numbering
from streamer.errors import SourceReason
from streamer.events import DATA_TYPES, EmotionSample, Event
from tests.publish_fixtures import event, every_event, joined, publisher

# the example of the interface's description, its ellipses filled in
EXAMPLE = json.loads("""
{"specversion": "1.0", "id": "e-1", "source": "/cameras/lobby", "type": "emotion.sample",
 "dataschema": "urn:emotion-streamer:emotion.sample/v1", "subject": "tracks/17",
 "time": "2026-01-31T12:00:00.123456Z", "sequence": 4711, "epoch": "e",
 "data": {"camera": "lobby", "track": 17, "box": [10, 20.5, 110, 140.5],
          "frame": {"seq": 812, "width": 640, "height": 360},
          "captured_at": "2026-01-31T12:00:00.061000Z", "clock": "host", "latency_ms": 62.4,
          "label": "happiness", "confidence": 0.91,
          "probabilities": {"neutral": 0.03, "happiness": 0.97}, "bundle": "b"}}
""")


def schema(name: str) -> Any:
    """Read a schema as it is packaged."""
    return json.loads((files("streamer") / "schema" / f"{name}.v1.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def registry() -> Registry[Any]:
    """Return both schemas, to be found by their names."""
    resources = [Resource.from_contents(schema(name)) for name in ("event", "snapshot")]
    return resources @ Registry()


def validator(name: str, registry: Registry[Any]) -> Draft202012Validator:
    """Return a validator of a packaged schema, itself checked."""
    contents = schema(name)
    Draft202012Validator.check_schema(contents)
    return Draft202012Validator(contents, registry=registry)


def encoded(value: Event) -> Any:
    """Return an event as a subscriber would read it."""
    body = Numbering(epoch="e").number(value)
    return json.loads(body.encode(time_ns=time.time_ns(), monotonic_ns=time.monotonic_ns()))


@pytest.mark.parametrize("value", every_event(), ids=lambda value: value.type)
def test_every_event_is_valid_and_complete(value: Event, registry: Registry[Any]) -> None:
    """Each type validates, and without any one of its data fields it does not."""
    check = validator("event", registry)
    written = encoded(value)

    check.validate(written)
    for field in written["data"]:
        damaged = copy.deepcopy(written)
        del damaged["data"][field]
        assert not check.is_valid(damaged), f"data.{field} may be missing"


def test_every_type_was_shown_to_the_schema() -> None:
    """The list of events above has every type there is."""
    assert {value.type for value in every_event()} == set(DATA_TYPES)


def test_the_described_example_is_valid(registry: Registry[Any]) -> None:
    """The example of the interface's description validates, and we write the same fields."""
    validator("event", registry).validate(EXAMPLE)

    ours = encoded(event(EmotionSample))

    assert list(ours) == list(EXAMPLE)
    assert list(ours["data"]) == list(EXAMPLE["data"])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("specversion",), "0.3"),
        (("sequence",), 0),
        (("sequence",), "1"),
        (("source",), "/daemon"),
        (("subject",), "17"),
        (("dataschema",), "urn:emotion-streamer:face.lost/v1"),
        (("time",), "2026-01-31T12:00:00Z"),
        (("data", "box"), [1, 2, 3]),
        (("data", "box"), [1, 2, 3, 4, 5]),
        (("data", "track"), "17"),
        (("data", "confidence"), 1.5),
        (("data", "captured_at"), "2026-01-31 12:00:00.061000"),
        (("data", "probabilities"), {"neutral": "much"}),
        (("data", "frame"), {"seq": 1, "width": 640}),
    ],
)
def test_a_broken_promise_is_noticed(
    path: tuple[str, ...], value: object, registry: Registry[Any]
) -> None:
    """What contradicts the promise does not validate."""
    damaged = copy.deepcopy(EXAMPLE)
    place = damaged
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value

    assert not validator("event", registry).is_valid(damaged)


def test_the_interface_may_grow(registry: Registry[Any]) -> None:
    """New fields, new reasons and new types are valid today already."""
    check = validator("event", registry)
    grown = copy.deepcopy(EXAMPLE) | {"partitionkey": "lobby"}
    grown["data"]["age"] = 40
    offline = copy.deepcopy(EXAMPLE) | {
        "type": "camera.offline",
        "dataschema": "urn:emotion-streamer:camera.offline/v1",
        "data": {"camera": "lobby", "reason": "eaten_by_a_fox", "detail": ""},
    }
    del offline["subject"]
    unknown = copy.deepcopy(EXAMPLE) | {"type": "pose.sample", "data": {"angle": 1}}

    check.validate(grown)
    check.validate(offline)
    check.validate(unknown)


def test_the_schema_names_every_reason() -> None:
    """Each typed reason of an offline camera is listed, so that a reader can tell them all."""
    reason = schema("event")["$defs"]["camera.offline"]["properties"]["reason"]

    assert set(reason["anyOf"][0]["enum"]) == {known.value for known in SourceReason}


def test_every_dataschema_can_be_looked_up(registry: Registry[Any]) -> None:
    """The name that an event gives for its schema is one that the packaged file declares."""
    known = registry.crawl()

    for value in every_event():
        contents = known.contents(encoded(value)["dataschema"])
        assert set(contents["required"]) == set(encoded(value)["data"])


def test_what_goes_over_the_wire_is_valid(registry: Registry[Any]) -> None:
    """Events and snapshot, as a real subscriber receives them, validate."""
    check = validator("event", registry)
    with (
        publisher() as (source, _recorder),
        Subscriber(connect=source.bind, snapshot=source.snapshot) as subscriber,
    ):
        joined(source, subscriber)
        for value in every_event()[:5]:
            source.emit(value)
        for _ in range(5):
            received = subscriber.receive(10)
            assert received is not None
            check.validate(json.loads(received.raw))
        snapshot = subscriber.snapshot()
        assert [track.track for track in snapshot.tracks] == [17]

        validator("snapshot", registry).validate(json.loads(msgspec.json.encode(snapshot)))
