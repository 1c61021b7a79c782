"""A search as text: what it will do, what it measured, what it chose, and the verdict."""

import shlex
from pathlib import Path

from layermix.evaluation.noninferiority import BY_ROW, power
from layermix.search.halving import epochs_of, round_sizes
from layermix.search.schema import CandidateRecord, FloorVerdict, SearchRecord
from layermix.search.space import Axes

USUAL_DIFFERENCE, USUAL_SD = 0.1, 0.005
"""Share of rows on which a student and its teacher usually differ, and the spread of seeds."""

PARTS = ("the 4th part of", "half of", "all")
"""Of a student's epochs, by round, the last one at the end."""


def plan_text(record: SearchRecord, epochs: int, axes: Axes, metric: str) -> str:
    """What will be done, and what the data can show, before anything is trained.

    Args:
        record: With candidates and numbers of rows.
        epochs: Of the base.
        axes: What is tried.
        metric: The score.
    """
    settings, count = record.settings, len(record.candidates)
    listed = "; ".join(
        f"{field} {', '.join('as it is' if value is None else str(value) for value in values)}"
        for field, values in axes.items()
    )
    sizes = round_sizes(count)
    rounds = ", then ".join(
        f"{size} for {_epochs(epochs_of(epochs, number, len(sizes)))}"
        for number, size in enumerate(sizes)
    )
    if "training.epochs" in axes:
        rounds = ", then ".join(
            f"{size} for {part} their epochs"
            for size, part in zip(sizes, PARTS[-len(sizes) :], strict=True)
        )
    if len(sizes) > 1:
        rounds += "; the smaller of the good ones go on"
    return (
        f"{_counted(count, 'student')} to try: {listed or 'the one that is given'}.\n"
        f"Training on all but {record.held_out_rows:,} held-out rows, in rounds, if all are within "
        f"the budgets: {rounds}.\n"
        f"The one that is chosen is then trained with {settings.seeds} fresh seeds on all rows, "
        f"and judged once on {record.validation_rows:,} validation rows{_in_groups(record)}"
        f"{_chance(record, metric)}."
    )


def _chance(record: SearchRecord, metric: str) -> str:
    """What these rows can show, if that can be told before anything is trained."""
    if metric not in BY_ROW:
        return "; how probable it is that they show the floor is told after the rounds"
    floor, seeds = record.settings.floor, record.settings.seeds
    groups = record.validation_groups
    rows = record.validation_rows if groups in (None, 1) else groups  # one alone is not counted
    error = (USUAL_DIFFERENCE / record.validation_rows) ** 0.5
    chance = power(floor / 100, 0.0, USUAL_SD, error, seeds, rows, rows)
    return (
        f": a student as good as its teacher that differs from it on a tenth of them is shown to "
        f"be within {_points(floor)} with a probability of about {chance:.0%}"
    )


def _in_groups(record: SearchRecord) -> str:
    groups = record.validation_groups
    return "" if groups is None else f" in {_counted(groups, 'group')}"


def candidate_line(one: CandidateRecord) -> str:
    """A student's cost, and why it is not trained if it is not."""
    if one.cost is None:
        return f"  {one.name}: cannot be made: {one.failed}"
    cost = f"{one.cost.bytes / 1e6:.1f} MB, {one.cost.milliseconds:.2f} ms a text"
    return f"  {one.name}: {cost}{f', {one.refused}: not trained' if one.refused else ''}"


def choice_text(record: SearchRecord) -> str:
    """Which student was chosen, and the probability that the last comparison shows the floor."""
    assert record.chosen is not None
    assert record.power is not None
    assert record.teacher is not None
    one, floor = record.candidate(record.chosen), record.settings.floor
    sign = 1 if record.higher_is_better else -1
    below = 100 * sign * (record.teacher.reference - one.rounds[-1].mean)
    found = f"{_below(below)} on the held-out rows"
    if not record.teacher.held_out:
        found = f"{_below(below, 'its score on the validation rows')}"
    if record.within:
        smallest = "fastest" if record.settings.smallest == "ms" else "smallest"
        first = f"Chosen: {record.chosen}, the {smallest} within {_points(floor)}: {found}."
    else:
        first = (
            f"No student is within {_points(floor)} of the teacher on the held-out rows. The best "
            f"one is judged: {record.chosen}, {found}."
        )
    return (
        f"{first}\nThe last comparison will show that it is within the floor with a probability of "
        f"{record.power.if_equal:.0%} if it is as good as the teacher, and of "
        f"{record.power.if_as_found:.0%} if it is as on the held-out rows."
    )


def verdict_sentence(verdict: FloorVerdict) -> str:
    """The verdict in one sentence."""
    mean = sum(verdict.scores) / len(verdict.scores)
    outcome = "shown" if verdict.shown else "not shown"
    close = f"{verdict.limit:.2f}" == f"{verdict.floor:.2f}"  # told so that both sides differ
    digits = 4 if close else 2
    p = f"p = {verdict.p:.{digits + 1}f}".replace("0.", ".", 1)
    p = "p < .001" if verdict.p < 0.001 else p
    int8 = ""
    if verdict.int8_cost is not None:
        what = "cost" if verdict.int8_cost >= 0 else "gain"
        int8 = f" as int8 files, which {what} {abs(verdict.int8_cost):.2f} of them"
    return (
        f"at most {_points(verdict.floor)} below the teacher (95 %): {outcome}. {verdict.metric} "
        f"{mean:.4f} against {verdict.teacher:.4f}: {_below(verdict.below)}{int8}, with 95 % "
        f"confidence at most {max(0.0, verdict.limit):.{digits}f} below ({p}, one-sided, "
        f"{len(verdict.scores)} seeds, {verdict.rows:,} rows)"
    )


def search_text(record: SearchRecord, student: Path, file: Path) -> str:
    """The result of a finished search as Markdown, with the next commands.

    Args:
        record: Of a finished search.
        student: The folder of the chosen student.
        file: The record's own file.
    """
    assert record.verdict is not None
    assert record.teacher is not None
    assert record.chosen is not None
    lines = [*_table(record), ""]
    lines += [f"- Note: {note}." for note in record.notes]
    beside = [f"{name} {score:.4f}" for name, score in record.baselines.items()]
    lines += [f"Beside it on the validation rows: {', '.join(beside)}.", ""] if beside else [""]
    lines.append(f"**{record.chosen}**: {verdict_sentence(record.verdict)}.")
    runtime = " --runtime int8" if record.settings.int8 else ""
    where = shlex.quote(str(student))
    lines += [
        "",
        f"The student of the first fresh seed is in {student}.",
        f"Next: layermix predict {where} FILE{runtime}    or    layermix report "
        f"{shlex.quote(str(file))}",
    ]
    return "\n".join(lines)


def _table(record: SearchRecord) -> list[str]:
    """A row for each student, the smallest first."""
    teacher = record.teacher
    assert teacher is not None
    lines = [
        f"| student | MB | ms a text | {record.metric} on held-out rows, by round | |",
        "| --- | --- | --- | --- | --- |",
        f"| teacher | {teacher.cost.bytes / 1e6:.1f} | {teacher.cost.milliseconds:.2f} | "
        f"{teacher.reference:.4f}{'' if teacher.held_out else ' (validation)'} | |",
    ]
    by_cost = sorted(
        record.candidates,
        key=lambda one: float("inf") if one.cost is None else one.cost.bytes,
    )
    for one in by_cost:
        cost = ("–", "–")
        if one.cost is not None:
            cost = f"{one.cost.bytes / 1e6:.1f}", f"{one.cost.milliseconds:.2f}"
        scores = ", ".join(f"{of_round.mean:.4f}" for of_round in one.rounds)
        lines.append(
            f"| {one.name} | {cost[0]} | {cost[1]} | {scores or '–'} | {state(one, record)} |"
        )
    return lines


def state(one: CandidateRecord, record: SearchRecord) -> str:
    """What became of a student, in a word or two; empty if another one went on."""
    if one.name == record.chosen:
        return "chosen"
    if one.failed is not None:
        return "failed"
    return one.refused or ""


def _below(points: float, what: str = "it") -> str:
    """A difference to the teacher in words."""
    return f"{abs(points):.2f} points {'below' if points >= 0 else 'above'} {what}"


def _points(floor: float) -> str:
    return f"{floor:g} point{'s' * (floor != 1)}"


def _epochs(count: int) -> str:
    return _counted(count, "epoch")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
