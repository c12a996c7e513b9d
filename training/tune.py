"""Search a recipe's values: trials chosen by what earlier ones showed, hopeless ones stopped early.

Everything is judged on the validation split. The study is a journal in the search's folder, and
each trial's run lies beside it, so that an interrupted search goes on where it was, in mid-trial,
and that any number of processes, on all machines that share the folder, can search together.
"""

from __future__ import annotations

import fcntl
import json
import math
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import TrialState

from streamer.errors import ConfigError
from training.log import read_log
from training.recipes import changed, to_plain
from training.train import LAST, LOG, fit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from training.data.faces import FaceSet
    from training.recipes import TrainConfig

__all__ = ["USUAL", "Found", "Trial", "Varied", "tune", "varied"]

USUAL = (
    "optim.lr=0.0003..0.01:log",
    "optim.decay=0.001..0.1:log",
    "balance.power=0.2..1.0",
    "loss.adjust=0.0..1.5",
    "labels.second_votes=0.0..6.0",
    "augment.rotate_deg=5.0..25.0",
)
"""What is varied where nothing is said: what the figures of FER+ and of unseen sets hang on."""
_STUDY = "study.journal"
_LOCK = "lock"
_STARTUP = 3  # trials that have to be complete before one may be stopped
_RANDOM = 8  # trials drawn by chance before any is chosen
_WARMUP = 1  # epochs before one may be stopped


@dataclass(frozen=True, slots=True, kw_only=True)
class Varied:
    """One value that is searched.

    Attributes:
        key: of the recipe, such as ``optim.lr``.
        low, high: ends of a range; whole numbers where both are written so.
        log: searched by its logarithm.
        choices: instead of a range; JSON values.
    """

    key: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[str, ...] = ()

    def of(self, trial: optuna.Trial) -> str:
        """Return what a trial takes, as ``--set`` wants it."""
        if self.choices:
            return f"{self.key}={trial.suggest_categorical(self.key, self.choices)}"
        if isinstance(self.low, int) and isinstance(self.high, int):
            whole = trial.suggest_int(self.key, self.low, self.high, log=self.log)
            return f"{self.key}={whole}"
        return f"{self.key}={trial.suggest_float(self.key, self.low, self.high, log=self.log)!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One trial that has ended.

    Attributes:
        number: of it, from 0.
        state: "complete" or "pruned".
        score: the best validation score of its run.
        epochs: of its run.
        values: what it took, as ``--set`` wants it.
    """

    number: int
    state: str
    score: float
    epochs: int
    values: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search found: the best complete trial first, and how much each value matters.

    ``importance`` is empty where there are too few trials to tell.
    """

    trials: list[Trial]
    importance: dict[str, float]


def varied(text: str) -> Varied:
    """Read ``optim.lr=0.0003..0.01:log``, ``balance.power=0.2..1.0`` or ``optim.name=["a","b"]``.

    Raises:
        ConfigError: when it is nothing of the kind.
    """
    key, mark, rest = text.partition("=")
    advice = "write KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY=[A,B]"
    try:
        if rest.startswith("["):
            choices = tuple(json.dumps(v) for v in json.loads(rest))
            if key and len(choices) > 1:
                return Varied(key=key, choices=choices)
        ends, _, kind = rest.partition(":")
        low, dots, high = ends.partition("..")
        whole = low.lstrip("-").isdigit() and high.lstrip("-").isdigit()
        first, last = (int(low), int(high)) if whole else (float(low), float(high))
    except ValueError:
        raise ConfigError(f"--vary {text}: not understood; {advice}") from None
    usable = math.isfinite(first) and math.isfinite(last) and first < last
    if not (key and mark and dots and usable and kind in ("", "log")) or (kind and first <= 0):
        raise ConfigError(f"--vary {text}: not understood; {advice}")
    return Varied(key=key, low=first, high=last, log=bool(kind))


def tune(
    base: TrainConfig,
    faces: FaceSet,
    out: Path,
    values: list[Varied],
    *,
    trials: int,
    report: Callable[[str], None] = lambda _: None,
) -> Found:
    """Search, or go on searching, until so many trials have ended or run elsewhere.

    Args:
        base: what is not varied; its seed is every trial's and the search's own.
        faces: with splits "train" and "valid"; no other split is looked at.
        out: directory of the study and of a run a trial.
        values: what is varied.
        trials: in all, those of an earlier call among them.
        report: told each epoch and each trial that ended.

    Raises:
        ConfigError: when a value is none of the recipe's, or the study there is of another search
            or of other faces.
    """
    for value in values:  # a mistake shows before anything runs
        changed(base, [f"{value.key}={value.choices[0] if value.choices else value.low}"])
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    learned = faces.rows(faces.split_N != "test").checksum()
    study = _study(out, base, values, learned)
    began, before = time.monotonic(), len(_ended(study))
    while True:
        with _next(study, base, values, out, trials) as taken:
            if taken is None:
                return _found(study, values)
            trial, config, folder = taken
            state = TrialState.COMPLETE
            try:
                _run(config, faces, folder, trial, report)
            except optuna.TrialPruned:
                state = TrialState.PRUNED
            score = max(study.trials[trial.number].intermediate_values.values(), default=0.0)
            study.tell(trial, score if state is TrialState.COMPLETE else None, state=state)
        done = len(_ended(study))
        left = (time.monotonic() - began) / (done - before) * (trials - done) / 60.0
        ended = f"trial {done} of {trials} {state.name.lower()}, score {score:.4f}"
        report(f"{ended}, about {max(0.0, left):.0f} min left")


@contextmanager
def _next(
    study: optuna.Study, base: TrainConfig, values: list[Varied], out: Path, trials: int
) -> Iterator[tuple[optuna.Trial, TrainConfig, Path] | None]:
    """Hold the next trial with its recipe and folder; None where nothing is left to begin."""
    with ExitStack() as held:
        with _locked(out, wait=True):  # one process at a time chooses
            running = _take_up(study, out)
            taken = None
            if len(_ended(study)) + running < trials:
                taken = _ask(study, base, values, out)
                held.enter_context(_locked(taken[-1], wait=True))
        yield taken


def _ask(
    study: optuna.Study, base: TrainConfig, values: list[Varied], out: Path
) -> tuple[optuna.Trial, TrainConfig, Path]:
    """Begin a trial: one that was interrupted, or a new one."""
    # Another seed for each trial, so that no two processes or calls draw the same.
    study.sampler = optuna.samplers.TPESampler(
        seed=base.seed + 1000 * len(study.trials), n_startup_trials=_RANDOM, constant_liar=True
    )
    trial = study.ask()
    config = changed(base, [value.of(trial) for value in values])
    name = trial.user_attrs.get("run", f"trial-{trial.number:03d}")
    trial.set_user_attr("run", name)
    return trial, config, out / name


@contextmanager
def _locked(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a folder while this process lives; yield False where another one does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def _run(
    config: TrainConfig,
    faces: FaceSet,
    out: Path,
    trial: optuna.Trial,
    report: Callable[[str], None],
) -> None:
    """Train one trial, and stop it once it falls behind the others."""
    for epoch, score in _earlier(out).items():
        trial.report(score, epoch)

    def look(line: dict[str, Any]) -> None:
        epoch, score = int(line["epoch"]), line.get("score")
        report(f"trial {trial.number}, epoch {epoch} of {config.epochs}: {score}")
        if score is None:
            return
        trial.report(float(score), epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    fit(config, faces, out, resume=(out / LAST).exists(), report=look)


def _earlier(out: Path) -> dict[int, float]:
    """Return the scores of a run that was interrupted, by epoch."""
    if not (out / LAST).exists():
        return {}
    lines = read_log(out / LOG)
    return {int(line["epoch"]): float(line["score"]) for line in lines if "score" in line}


def _study(out: Path, base: TrainConfig, values: list[Varied], learned: int) -> optuna.Study:
    file = out / _STUDY
    with _locked(out, wait=True):
        _mend(file)
        try:
            study = _opened(file)
        except (ValueError, KeyError, TypeError):  # what a journal's lines are read with
            raise ConfigError(f"{file}: not a study; name another --out") from None
        _check(study, file, base, values, learned)
    return study


def _mend(file: Path) -> None:
    """Take off the piece of a line that a full disk left at a journal's end.

    What is written after it would be one line with it, and the study unreadable for good.
    """
    if not file.is_file():
        return
    lock = JournalFileSymlinkLock(str(file))  # as the journal's own writers hold it
    lock.acquire()
    try:
        with file.open("rb+") as journal:
            content = journal.read()
            whole = content.rfind(b"\n") + 1
            if whole and content[whole:].startswith(b"{"):
                journal.truncate(whole)
    finally:
        lock.release()


def _opened(file: Path) -> optuna.Study:
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(file))),
        study_name="tune",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_STARTUP, n_warmup_steps=_WARMUP + 1),
    )


def _check(
    study: optuna.Study, file: Path, base: TrainConfig, values: list[Varied], learned: int
) -> None:
    """Refuse to go on with the study of another search, or of other faces."""
    what = {"base": to_plain(base), "values": [_words(v) for v in values], "faces": learned}
    text = json.dumps(what, sort_keys=True)
    if study.user_attrs.setdefault("search", text) != text:
        raise ConfigError(
            f"{file} searched another recipe, other values or other faces; give the same ones or "
            "another --out"
        )
    study.set_user_attr("search", text)


def _words(value: Varied) -> str:
    return f"{value.key}={value.choices or (value.low, value.high, value.log)}"


def _take_up(study: optuna.Study, out: Path) -> int:
    """Let what was interrupted begin again, in the run that it had; return how many do run."""
    running = 0
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        name = trial.user_attrs.get("run")
        if name is None:  # whoever began it ended at once
            study.tell(trial.number, state=TrialState.FAIL)
            continue
        with _locked(out / name, wait=False) as free:
            if free:
                study.tell(trial.number, state=TrialState.FAIL)
                study.enqueue_trial(trial.params, user_attrs={"run": name})
            else:
                running += 1
    return running


def _ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))


def _found(study: optuna.Study, values: list[Varied]) -> Found:
    trials = [
        Trial(
            number=t.number,
            state=t.state.name.lower(),
            score=max(t.intermediate_values.values(), default=0.0),
            epochs=len(t.intermediate_values),
            values=[f"{v.key}={t.params[v.key]}" for v in values],
        )
        for t in _ended(study)
    ]
    trials.sort(key=lambda t: (t.state != "complete", -t.score))
    complete = [t for t in trials if t.state == "complete"]
    spread = {t.score for t in complete}
    importance: dict[str, float] = {}
    if len(complete) > _STARTUP and len(spread) > 1:
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
        importance = {key: float(v) for key, v in found.items()}
    return Found(trials=trials, importance=importance)
