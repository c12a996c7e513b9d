"""What a network learned from, in facts and in a card's words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.data.faces import MISSING
from training.distill import TEACHER
from training.inputs import FERPLUS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from training.data.labels import LabelConfig
    from training.inputs import Corpus

__all__ = ["BEGUN", "CHECKPOINT", "MEAN", "Origin", "begun", "learned", "mixed", "rights", "taught"]

BEGUN = "begun with"
"""With this the names begin under which a checkpoint keeps the run whose weights it began with,
and what that one learned from."""
MEAN = "mean of"
"""With this the names begin of runs whose weights a checkpoint is the mean of."""
CHECKPOINT = ".pt"
"""With this the names of runs end, and those of data sets do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a network learned from, as its checkpoint and the cache tell.

    Attributes:
        corpus: the name of the set.
        pictures: in its training split.
        second: whether a second label of them is known.
        files: that the set was made from; empty where the checkpoint names none.
        elsewhere: the network learned from other files than those of the set.
        unlabelled: files of pictures that teachers alone labelled.
        teachers: the checkpoint's words on who taught it; empty for a run that had no teacher.
        begun: the run whose weights it began with, and what that one learned from.
        mixed: the runs whose weights it is the mean of; empty for a run of its own.
    """

    corpus: str
    pictures: int
    second: bool
    files: tuple[str, ...]
    elsewhere: bool
    unlabelled: tuple[str, ...]
    teachers: tuple[str, ...]
    begun: tuple[str, ...]
    mixed: tuple[str, ...]

    @classmethod
    def of(cls, corpus: Corpus, data: dict[str, str]) -> Origin:
        """Compare a set with the files that a checkpoint says its run learned from."""
        train = corpus.faces.part("train")
        files = [name for name in data if not name.startswith((TEACHER, BEGUN, MEAN))]
        begun = [name.removeprefix(BEGUN).strip() for name in data if name.startswith(BEGUN)]
        begun = [name for name in begun if not name.startswith((TEACHER, MEAN))]
        own = tuple(name for name in files if name in corpus.sources)
        elsewhere = bool(files and corpus.sources and not own)
        teachers = tuple(name for name in data if name.startswith(TEACHER))
        return cls(
            corpus=corpus.name,
            pictures=len(train),
            second=bool((train.second_N != MISSING).any()),
            files=tuple(files) if elsewhere else own,
            elsewhere=elsewhere,
            unlabelled=()
            if elsewhere or not teachers
            else tuple(name for name in files if name not in own),
            teachers=teachers,
            begun=tuple(begun),
            mixed=tuple(name for name in data if name.startswith(MEAN)),
        )


def learned(origin: Origin, labels: LabelConfig) -> str:
    """Return the sentence about the pictures and their labels."""
    if origin.elsewhere:
        return (
            f"Trained on {', '.join(origin.files)}; the set {origin.corpus} was made from other "
            "files and gave the validation split, the test split and the stills below."
        )
    if origin.corpus == FERPLUS:
        said = (
            "Trained on FER2013's official training split with the votes of FER+ (Barsoum 2016) as "
            "target distributions"
        )
        label = "FER2013's own label"
    else:
        files = f", from {', '.join(origin.files)}" if origin.files else ""
        said = f"Trained on the training split of {origin.corpus}: {origin.pictures} faces{files}"
        label = "a second label"
    if origin.second and labels.second_votes:
        said += f"; {label} counts as {labels.second_votes:g} further votes for "
        said += ", ".join(labels.second)
    return f"{said}."


def begun(origin: Origin) -> Iterator[str]:
    """Return the sentence about the run whose weights were taken up, if one was."""
    if origin.begun:
        run, *learned_from = origin.begun
        said = f", which had learned from {', '.join(learned_from)}" if learned_from else ""
        yield f"It began with the weights of an earlier run ({run}){said}."


def mixed(origin: Origin) -> Iterator[str]:
    """Return the sentence about the runs that were averaged, if some were."""
    if origin.mixed:
        runs = ", ".join(name.removeprefix(MEAN).strip() for name in origin.mixed)
        yield (
            f"Its weights are the mean of those of {len(origin.mixed)} runs ({runs}), and what is "
            "said of how it was trained holds for each of them."
        )


def taught(origin: Origin) -> Iterator[str]:
    """Return a sentence a teacher: on what its opinion was taken."""
    also = ""
    if origin.unlabelled:
        also = f" and on those of {', '.join(origin.unlabelled)}, which nobody had labelled"
    for teacher in origin.teachers:
        yield (
            "Its targets were mixed with the opinion of an earlier network on the same pictures"
            f"{also} ({teacher})."
        )


def rights(origin: Origin) -> str:
    """Return the sentences about whose terms bind the network's users."""
    drawn = "No picture of any data set is in this bundle: its parity samples are drawings."
    before = [
        name
        for name in origin.begun[1:]
        if name not in origin.files and not name.endswith(CHECKPOINT)
    ]
    others = [*origin.unlabelled, *(origin.files if origin.elsewhere else ()), *before]
    said = []
    if origin.corpus == FERPLUS:
        said.append(
            "FER2013's pictures come from the web for research use; FER+'s votes are under the MIT "
            "licence."
        )
    else:
        others = [origin.corpus, *others]
    if others:
        pictures = f"the pictures of {', '.join(others)}"
        said.append(f"What binds whoever uses {pictures} may bind whoever uses this bundle.")
    return " ".join([*said, drawn])
