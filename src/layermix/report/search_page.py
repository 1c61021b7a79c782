"""The page of a search, finished or not: what was tried, what is on the frontier, the verdict."""

import json
from collections.abc import Sequence
from typing import Any

from layermix.report import figures
from layermix.report.figures import Figure
from layermix.report.html import Page, Section, Table
from layermix.search.schema import CandidateRecord, SearchRecord
from layermix.search.text import choice_text, state, verdict_sentence


def search_page(record: SearchRecord) -> Page:
    """The page of a search, finished or not."""
    settings = record.settings
    headline = [
        "The search is not finished."
        if record.verdict is None
        else f"{record.chosen}: {verdict_sentence(record.verdict)}."
    ]
    if record.power is not None:
        headline += choice_text(record).splitlines()
    sections = [
        Section(
            "Students",
            [
                f"Scores are on {record.held_out_rows:,} held-out training rows; the verdict is on "
                f"{record.validation_rows:,} validation rows and {settings.seeds} fresh seeds."
            ],
            tables=[_table(record)],
            figures=_charts(record),
        )
    ]
    if record.baselines:
        rows = [[name, f"{score:.4f}"] for name, score in record.baselines.items()]
        heading = "Without a teacher, on the validation rows"
        metric = record.metric if record.verdict is None else record.verdict.metric
        sections.append(Section("Baselines", tables=[Table(heading, ["model", metric], rows)]))
    return Page(
        f"Search: {settings.name}",
        "ok" if record.status == "ok" else "unfinished",
        headline,
        [f"{str(note)[:1].upper()}{str(note)[1:]}." for note in record.notes],
        sections,
        {"Settings": json.dumps(settings.model_dump(mode="json"), indent=2, ensure_ascii=False)},
    )


def _table(record: SearchRecord) -> Table:
    """All students, the smallest first, and what became of each."""
    rows: list[list[str]] = []
    if (teacher := record.teacher) is not None:
        cost = teacher.cost
        rows.append(
            [
                "teacher",
                f"{cost.parameters / 1e6:.1f} million",
                f"{cost.bytes / 1e6:.1f}",
                f"{cost.milliseconds:.2f}",
                f"{teacher.reference:.4f}" + " (validation rows)" * (not teacher.held_out),
                "",
            ]
        )
    for one in sorted(record.candidates, key=_size):
        cost_cells = ["–", "–", "–"]
        if one.cost is not None:
            cost_cells = [
                f"{one.cost.parameters / 1e6:.1f} million",
                f"{one.cost.bytes / 1e6:.1f}",
                f"{one.cost.milliseconds:.2f}",
            ]
        scores = ", ".join(
            f"{of_round.mean:.4f} ({of_round.epochs} epochs)" for of_round in one.rounds
        )
        rows.append([one.name, *cost_cells, scores or "–", state(one, record)])
    columns = ["student", "parameters", "MB", "ms a text", f"{record.metric} by round", ""]
    return Table("The smallest first", columns, rows)


def _size(one: CandidateRecord) -> float:
    return float("inf") if one.cost is None else one.cost.bytes


def _charts(record: SearchRecord) -> list[Figure]:
    """Score against megabytes and milliseconds; none before a student was trained."""
    dots = [_dot(one, record) for one in record.candidates if one.rounds and one.cost is not None]
    if not dots or record.teacher is None:
        return []
    sign = 1 if record.higher_is_better else -1
    reference, cost = record.teacher.reference, record.teacher.cost
    lines = [
        {"name": "teacher", "score": reference},
        {"name": "floor", "score": reference - sign * record.settings.floor / 100},
    ]
    lines += [{"name": name, "score": score} for name, score in record.baselines_held_out.items()]
    teacher = {
        "name": "teacher",
        "kind": "teacher",
        "score": reference,
        "megabytes": cost.bytes / 1e6,
        "milliseconds": cost.milliseconds,
        "frontier": False,
    }
    charts = []
    for name in figures.FRONTIERS:
        on_line = _on_frontier(dots, name, sign)
        rows = [dot | {"frontier": place in on_line} for place, dot in enumerate(dots)]
        charts.append(
            figures.frontier(f"frontier-{name}", record.metric, name, [*rows, teacher], lines)
        )
    return charts


def _dot(one: CandidateRecord, record: SearchRecord) -> dict[str, Any]:
    assert one.cost is not None
    last = one.rounds[-1]
    kind = f"trained for {last.epochs} epoch{'s' * (last.epochs != 1)}"
    return {
        "name": one.name,
        "kind": "chosen" if one.name == record.chosen else kind,
        "score": last.mean,
        "megabytes": one.cost.bytes / 1e6,
        "milliseconds": one.cost.milliseconds,
    }


def _on_frontier(dots: Sequence[dict[str, Any]], cost: str, sign: int) -> set[int]:
    """Places of the dots that no other dot beats in score and cost."""
    return {
        place
        for place, dot in enumerate(dots)
        if not any(
            other[cost] <= dot[cost]
            and sign * other["score"] >= sign * dot["score"]
            and (other[cost], other["score"]) != (dot[cost], dot["score"])
            for other in dots
        )
    }
