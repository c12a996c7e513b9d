"""The model card's sentences follow from what a checkpoint and a cache know."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from training import card
from training.data.faces import CLASSES
from training.evaluate import Measured, score
from training.inputs import Corpus
from training.origin import BEGUN, MEAN, Origin, begun, learned, rights, taught
from training.recipes import recipe
from training.smoothing import Steadiness, TemporalResult

if TYPE_CHECKING:
    from training.data.faces import FaceSet

PACKED = {"fer2013plus_48.npz": "0"}
TEACHER = {"teacher 1, share 0.5, temperature 2": "1"}


def words(text: str) -> str:
    """Forget where lines break."""
    return " ".join(text.split())


def measured(name: str, split: str, counts: dict[str, int]) -> Measured:
    """Return the scores of a reader that is always right, over pairs of pictures."""
    labels = np.repeat([CLASSES.index(c) for c in counts], list(counts.values()))
    said = np.full((len(labels), len(CLASSES)), 0.05, np.float32)
    said[np.arange(len(labels)), labels] = 0.65
    groups = np.array([str(i // 2) for i in range(len(labels))])
    scores = score(said, labels, groups, CLASSES)
    return Measured(dataset=name, split=split, framing="eye-aligned", scores=scores, ece_before=0.1)


def facts(faces: FaceSet, name: str, data: dict[str, str], *sets: Measured) -> card.Facts:
    """Return the facts of a network that learned from a set of a name."""
    steady = Steadiness(
        clips=7, apex_accuracy=0.5, uar=0.5, final_accuracy=0.5, flicker_hz=0.1, lag_s=0.2
    )
    moved = TemporalResult(
        dataset=f"{name} {card.MOVED}",
        step_s=0.1,
        head=steady,
        frames=steady,
        average=steady,
        average_weight=1.0,
    )
    return card.Facts(
        name="bundle",
        date="2026-11-23",
        config=replace(recipe("ferplus"), epochs=3),
        epochs=2,
        seeds=[3],
        origin=Origin.of(Corpus(name=name, faces=faces, sources=PACKED), data),
        clips={},
        share=0.5,
        best_share=0.5,
        temperature=0.5,
        measured=list(sets),
        temporal=[moved],
    )


def test_ferplus_is_named_where_it_was_learned_from(faces: FaceSet) -> None:
    """The card of FER+ names its makers, its rare classes and CK+'s laboratory."""
    second = replace(faces, second_N=np.zeros(len(faces), np.int64))
    own = measured("FER+", "test", dict.fromkeys(CLASSES, 60) | {"fear": 41, "disgust": 6})
    other = measured("CK+48", "all", dict.fromkeys(CLASSES[1:], 3))
    said = words(card.text(facts(second, "FER+", PACKED, own, other), (1.0, 2.0)))
    votes = recipe("ferplus").labels.second_votes
    assert (
        "Trained on FER2013's official training split with the votes of FER+ (Barsoum 2016) as "
        f"target distributions; FER2013's own label counts as {votes:g} further votes for sadness, "
        "anger, disgust, fear. The network is"
    ) in said
    assert "FER+'s votes are under the MIT licence. No picture" in said
    assert "Disgust (6) and fear (41) are rare in the clean FER+ test" in said
    assert "CK+48 has no neutral pictures, and its labels were posed in a laboratory." in said
    assert "groups (FER+: sets of duplicates; CK+48: subjects)" in said
    assert "neither corpus carries such labels" in said
    assert "pictures like FER2013's" in said
    assert "teacher" not in said
    assert "Moved stills: 7 pictures of FER+'s validation split" in said


def test_no_word_of_ferplus_where_it_was_not_learned_from(faces: FaceSet) -> None:
    """The card of other pictures names them, how many there were, and what was measured."""
    own = measured("mine", "test", {"neutral": 60, "anger": 4})
    said = words(card.text(facts(faces, "mine", {}, own), (1.0, 2.0)))
    assert "FER" not in said.replace("recipe `ferplus`", "")
    assert "CK+:" not in said
    assert "Trained on the training split of mine: 128 faces. The network is" in said
    assert "What binds whoever uses the pictures of mine may bind" in said
    assert "mine test: leaks into train removed" in said
    assert "Anger (4) is rare in the clean mine test" in said
    absent = "happiness, surprise, sadness, disgust, fear and contempt"
    assert f"; mine has no {absent} pictures." in said
    assert "groups (mine: 32 of 64 pictures)" in said
    assert "pictures like mine's" in said


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (PACKED | TEACHER, "an earlier network on the same pictures (teacher 1, share 0.5"),
        (
            PACKED | {"web.npz": "2"} | TEACHER,
            "on the same pictures and on those of web.npz, which nobody had labelled (teacher 1",
        ),
    ],
)
def test_who_taught_and_on_what(faces: FaceSet, data: dict[str, str], sentence: str) -> None:
    """Pictures without labels are told of beside the teacher who labelled them."""
    origin = Origin.of(Corpus(name="FER+", faces=faces, sources=PACKED), data)
    assert sentence in "".join(taught(origin))
    assert ("pictures of web.npz may bind" in rights(origin)) == ("web.npz" in data)


def test_a_share_that_a_person_set_is_told(faces: FaceSet) -> None:
    """Beside the one that validation would have chosen."""
    made = facts(faces, "mine", PACKED)
    said = words(card.text(made, (1.0, 2.0)))
    assert "given back, chosen on the validation split together with" in said
    said = words(card.text(replace(made, best_share=0.65), (1.0, 2.0)))
    assert "a share of 0.5 of the corpus' prior was given back, set by whoever made" in said
    assert "the validation split would choose 0.65" in said


def test_where_the_weights_began_binds_too(faces: FaceSet) -> None:
    """Faces that the run before had learned from are named, and their terms; its own are not."""
    first = {"last.pt": "2", "fer2013.csv": "3", "mine.csv": "4"} | TEACHER
    data = {"mine.csv": "4"} | {f"{BEGUN} {name}": digest for name, digest in first.items()}
    origin = Origin.of(Corpus(name="mine", faces=faces, sources={"mine.csv": "4"}), data)
    assert not origin.elsewhere
    assert "".join(begun(origin)) == (
        "It began with the weights of an earlier run (last.pt), which had learned from "
        "fer2013.csv, mine.csv."
    )
    assert "pictures of mine, fer2013.csv may bind" in rights(origin)


def test_a_mean_of_runs_names_them(faces: FaceSet) -> None:
    """Seeds, members and what they began with; a checkpoint is not taken for pictures."""
    data = PACKED | {f"{BEGUN} old.pt": "7", f"{BEGUN} older.pt": "8"}
    data |= {f"{MEAN} one/last.pt": "5", f"{MEAN} two/last.pt": "6"}
    made = replace(facts(faces, "FER+", data), seeds=[0, 1, 2])
    said = words(card.text(made, (1.0, 2.0)))
    assert "seeds 0, 1 and 2." in said
    assert "the mean of those of 2 runs (one/last.pt, two/last.pt)" in said
    assert "One network: a difference" in said
    assert "pictures of" not in rights(made.origin)
    assert "seed 3." in words(card.text(facts(faces, "FER+", PACKED), (1.0, 2.0)))


def test_a_set_that_was_not_learned_from_is_not_claimed(faces: FaceSet) -> None:
    """Where checkpoint and cache are of different files, the card says which were learned from."""
    corpus = Corpus(name="FER+", faces=faces, sources=PACKED)
    origin = Origin.of(corpus, {"mine.csv": "3"} | TEACHER)
    assert origin.unlabelled == ()
    said = learned(origin, recipe("ferplus").labels)
    assert said.startswith("Trained on mine.csv; the set FER+ was made from other files")
    assert "pictures of mine.csv may bind" in rights(origin)
