"""A gate for CI: does a model keep the score of another one, and is it small and fast enough?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from layermix.config import DataConfig
from layermix.console import Reporter
from layermix.data.tokenization import Collator, tokenize_split
from layermix.errors import ConfigError
from layermix.models.inference import Floats, finite, logits_of
from layermix.models.latency import WARMUP, seconds_in_turns
from layermix.serving.benchmark import weight_bytes
from layermix.serving.compared import drop_of
from layermix.serving.evaluation_rows import EvaluationRows, evaluation_rows
from layermix.serving.predictor import Predictor, Runtime, open_predictor

ROUNDING = 1e-9
"""A drop that is the limit but for rounding keeps it."""

TIMED = 100
"""Texts that each model answers one at a time."""


@dataclass(frozen=True)
class Limits:
    """What is asked of the model; None: not asked.

    Attributes:
        max_drop: Points (hundredths) of the score that it may be below the other model.
        sure: Whether the whole 95 % interval of the drop must be within `max_drop`.
        max_ms: Milliseconds for one text, the median.
        min_speedup: How many times as fast as the other model it must be.
        max_mb: Megabytes of its file of weights.
    """

    max_drop: float | None = None
    sure: bool = False
    max_ms: float | None = None
    min_speedup: float | None = None
    max_mb: float | None = None


@dataclass(frozen=True)
class Checked:
    """One limit, what was measured, and whether it is kept.

    Attributes:
        name: The name of the limit.
        limit: Its value.
        measured: In the unit of the limit.
        passed: Whether it is kept.
        text: All of it in words.
        low: Lower end of the 95 % interval over rows of a drop.
        high: Upper end.
    """

    name: str
    limit: float
    measured: float
    passed: bool
    text: str
    low: float | None = None
    high: float | None = None


def check(
    model: str,
    against: str | None,
    limits: Limits,
    data: DataConfig,
    *,
    runtime: Runtime = "auto",
    reporter: Reporter | None = None,
) -> list[Checked]:
    """Measure a model beside another one on the same rows, and compare with limits.

    Args:
        model: Run folder, model folder or hub id.
        against: The one that it replaces; needed for `max_drop` and `min_speedup`.
        limits: At least one.
        data: The rows; by default the validation rows of the run of `model`.
        runtime: What runs `model`; the other one runs as it is by default.
        reporter: Where progress is shown; quiet if None.

    Returns:
        An entry for each limit.

    Raises:
        LayermixError: If models or rows cannot be used, or a limit makes no sense.
    """
    _check_limits(against, limits)
    reporter = reporter or Reporter(quiet=True)
    new = open_predictor(model, runtime)
    is_compared = limits.max_drop is not None or limits.min_speedup is not None
    old = _other(against, new) if against is not None and is_compared else None
    for predictor in filter(None, (new, old)):
        for note in predictor.notes:
            reporter.say(note)
    checked: list[Checked] = []
    if is_compared or limits.max_ms is not None:
        rows = evaluation_rows(model, data, new, reporter)
        if limits.max_drop is not None and old is not None:
            checked.append(_drop(old, new, rows, limits.max_drop, limits.sure, reporter))
        if limits.max_ms is not None or limits.min_speedup is not None:
            checked += _speed(old, new, rows, limits)
    if limits.max_mb is not None:
        size = weight_bytes(new.source, new) / 1e6
        text = f"{size:.1f} MB (at most {limits.max_mb:g})"
        checked.append(Checked("max_mb", limits.max_mb, size, size <= limits.max_mb, text))
    return checked


def _other(source: str, new: Predictor) -> Predictor:
    """The model to compare with, its classes in the order of the new one's.

    Raises:
        ConfigError: If it was trained on labels of another kind.
    """
    old = open_predictor(source)
    if old.problem.name != new.problem.name:
        raise ConfigError(
            f"{source}: was trained on labels for {old.problem.name}, and {new.source} on labels "
            f"for {new.problem.name}; wanted a model for the same"
        )
    return old.in_order(new.label_names)


def _check_limits(against: str | None, limits: Limits) -> None:
    """Raises a ConfigError for limits that are missing, or of which one cannot be measured."""
    beside = {"--max-drop": limits.max_drop, "--min-speedup": limits.min_speedup}
    if all(one is None for one in (*beside.values(), limits.max_ms, limits.max_mb)):
        raise ConfigError(
            "nothing to check: give --max-drop POINTS, --max-ms MS, --min-speedup TIMES or "
            "--max-mb MB"
        )
    problems = [
        f"{name} needs --against MODEL, the model to compare with"
        for name, value in beside.items()
        if value is not None and against is None
    ]
    problems += [
        f"--{name.replace('_', '-')}: found {value}, wanted a number"
        for name, value in vars(limits).items()
        if value is not None and not math.isfinite(value)
    ]
    if limits.sure and limits.max_drop is None:
        problems.append("--sure needs --max-drop POINTS")
    if problems:
        raise ConfigError("\n".join(problems))


def _drop(
    old: Predictor,
    new: Predictor,
    rows: EvaluationRows,
    limit: float,
    sure: bool,
    reporter: Reporter,
) -> Checked:
    if not len(rows.labelled):
        raise ConfigError(
            f"{rows.source}: no row has a label, so no score can be compared; give --data with "
            "labelled rows"
        )
    before, after = (_logits(one, rows, reporter) for one in (old, new))
    drop = drop_of(before, after, rows, rows.labelled)
    way = "worse" if drop.points >= 0 else "better"
    units = "rows" if rows.groups is None else "groups of rows"
    interval = f"95 % over {units} {drop.low:.2f} to {drop.high:.2f} worse"
    wanted = f"at most {limit:g}" + ", for all of the interval" * sure
    text = (
        f"{rows.metric} {drop.after:.4f}, {abs(drop.points):.2f} points {way} than {old.source} "
        f"({interval}; {wanted})"
    )
    passed = (drop.high if sure else drop.points) <= limit + ROUNDING
    return Checked("max_drop", limit, drop.points, passed, text, drop.low, drop.high)


def _logits(predictor: Predictor, rows: EvaluationRows, reporter: Reporter) -> Floats:
    tokens, cut = tokenize_split(rows.texts, predictor.tokenizer, predictor.max_length)
    if note := predictor.cut_note(predictor.source, cut):
        reporter.say(note)
    collate = Collator(predictor.tokenizer)
    found = logits_of(predictor.run, tokens, collate, track=reporter.track, what=predictor.source)
    return rows.in_order(finite(f"{predictor.source}: its", found))


def _speed(
    old: Predictor | None, new: Predictor, rows: EvaluationRows, limits: Limits
) -> list[Checked]:
    """The time of one text, by turns with the other model."""
    texts = rows.tuples
    order = np.random.default_rng(0).permutation(len(texts))
    chosen = [texts[order[place % len(texts)]] for place in range(WARMUP + TIMED)]
    predictors = {"new": new} | ({} if old is None else {"old": old})
    actions = {name: partial(_answer, one) for name, one in predictors.items()}
    taken = {
        name: 1000 * float(np.median(seconds[WARMUP:]))
        for name, seconds in seconds_in_turns(actions, chosen).items()
    }
    checked: list[Checked] = []
    if limits.max_ms is not None:
        text = f"{taken['new']:.2f} ms a text (at most {limits.max_ms:g})"
        passed = taken["new"] <= limits.max_ms
        checked.append(Checked("max_ms", limits.max_ms, taken["new"], passed, text))
    if limits.min_speedup is not None:
        times = taken["old"] / taken["new"]
        text = f"{times:.2f} times as fast (at least {limits.min_speedup:g})"
        passed = times >= limits.min_speedup
        checked.append(Checked("min_speedup", limits.min_speedup, times, passed, text))
    return checked


def _answer(predictor: Predictor, text: tuple[str, ...]) -> Any:
    return predictor.answer([text])


def check_text(model: str, checked: Sequence[Checked]) -> str:
    """All of it in one line, what failed first."""
    failed = [one for one in checked if not one.passed]
    parts = [one.text for one in (*failed, *(one for one in checked if one.passed))]
    return f"{'failed' if failed else 'passed'}: {model}: {'; '.join(parts)}"
