"""Figures of a report: plain rows in, a Vega-Lite specification with its data out.

One specification serves the page, the files for papers, and the table behind the figure. Names from
the data (arms, tasks, classes) are only ever values of a field, so they are shown as text.
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from layermix.atomic import whole_file

Row = Mapping[str, Any]
Rows = Sequence[Row]

PALETTE = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#b4609b",
    "#857100",
    "#7a66c2",
    "#2a8c9c",
    "#a0522d",
    "#7a7a7a",
)
"""Colours for colour-blind readers, with dashes; contrast 3:1 on white and near-black."""
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
INK = "currentColor"
PAPER_INK = "#1b1b1b"
QUIET = 0.35
"""Opacity of what is not the message: grids, single seeds."""
DARK = 0.43
"""Below this value, a cell of a heat map has white numbers; from it on, black ones."""
FRAMES = 60
"""Largest number of steps of a run that a figure shows."""
PNG_SCALE = 2


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        name: Name of its files, without the ending.
        title: Its heading.
        reading: How to read it, in a sentence.
        chart: The specification without data.
        data: Named data sets; the first is the main one. Those whose name begins with `_` draw a
            reference line and are not saved.
        steps: The step of each frame if the figure has a slider; otherwise empty.
        cell: Width of a small multiple in pixels; 0 if the figure is a single chart.
    """

    name: str
    title: str
    reading: str
    chart: Any
    data: Mapping[str, Rows]
    steps: Sequence[int] = field(default_factory=tuple)
    cell: int = 0

    def spec(self) -> dict[str, Any]:
        """The Vega-Lite specification with data; `usermeta` is for slider and small multiples."""
        spec: dict[str, Any] = self.chart.to_dict()
        spec["datasets"] = {name: list(rows) for name, rows in self.data.items()}
        spec["config"] = CONFIG
        spec["usermeta"] = {"steps": list(self.steps), "cell": self.cell}
        return spec

    def save(self, folder: Path) -> list[Path]:
        """Write the figure as SVG, PDF and PNG, at its last step, and every data set as CSV."""
        spec = json.loads(json.dumps(self.spec()).replace(INK, PAPER_INK))
        if spec.get("width") == "container":
            spec["width"] = 420
        svg = vl_convert.vegalite_to_svg(spec)
        contents = {
            ".svg": svg.encode(),
            ".pdf": vl_convert.svg_to_pdf(svg),
            ".png": vl_convert.svg_to_png(svg, scale=PNG_SCALE),
        }
        files = [folder / f"{self.name}{suffix}" for suffix in contents]
        for file, content in zip(files, contents.values(), strict=True):
            with whole_file(file) as temporary:
                temporary.write_bytes(content)
        for index, (name, rows) in enumerate(self.data.items()):
            if not name.startswith("_"):
                files.append(folder / (f"{self.name}-{name}.csv" if index else f"{self.name}.csv"))
                _write_csv(files[-1], rows)
        return files


def _write_csv(file: Path, rows: Rows) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with whole_file(file) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


_QUIET_AXIS = {
    "labelColor": INK,
    "titleColor": INK,
    "domainColor": INK,
    "tickColor": INK,
    "gridColor": INK,
    "gridOpacity": 0.12,
    "domainOpacity": QUIET,
    "tickOpacity": QUIET,
    "labelLimit": 200,
    "titleFontWeight": "normal",
}
CONFIG: dict[str, Any] = {
    "aria": False,  # the page names each figure, and has its table
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": _QUIET_AXIS,
    "legend": {
        "labelColor": INK,
        "titleColor": INK,
        "titleFontWeight": "normal",
        "orient": "top",
        "direction": "horizontal",
        "columns": 3,
        "labelLimit": 320,
        "symbolStrokeWidth": 2,
    },
    "header": {"labelColor": INK, "titleColor": INK, "titleFontWeight": "normal"},
    "range": {"category": list(PALETTE)},
}


def thin(items: Sequence[Any], most: int = FRAMES) -> list[Any]:
    """At most `most` items, evenly spaced, with the first and the last.

    Examples:
        >>> thin(range(10), 4)
        [0, 3, 6, 9]
    """
    if len(items) <= most:
        return list(items)
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]


def _base(data: str = "rows") -> Any:
    return alt.Chart(alt.NamedData(data))


def _by_name(field: str, names: Iterable[str]) -> dict[str, Any]:
    """The encoding of a name as colour and dashes of a line; a single line has no legend."""
    order = list(dict.fromkeys(names))
    dashes = [DASHES[index % len(DASHES)] for index in range(len(order))]
    wide = max(map(len, order), default=0) > LONG_NAME
    legend: Any = None
    if len(order) > 1:
        legend = alt.Legend(title=field, symbolType="stroke", columns=1 if wide else 3)
    return {
        "color": alt.Color(
            f"{field}:N", legend=legend, scale=alt.Scale(domain=order, range=_cycle(PALETTE, order))
        ),
        "strokeDash": alt.StrokeDash(
            f"{field}:N", legend=legend, scale=alt.Scale(domain=order, range=dashes)
        ),
    }


def _facet(field: str, rows: Rows) -> Any:
    """Small multiples by a name, in the order of the rows."""
    return alt.Facet(f"{field}:N", title=None, sort=list(dict.fromkeys(row[field] for row in rows)))


def _cycle(colours: Sequence[str], names: Sequence[str]) -> list[str]:
    return [colours[index % len(colours)] for index in range(len(names))]


LONG_NAME = 24
"""Characters beyond which a legend has one column and a pair of arms takes two lines."""
IN_LINES = alt.Axis(labelExpr="split(datum.label, /, |\\n/)")
"""Writes long names on several lines, since shortened names would look alike."""
BAND = 34
"""Height of one arm or pair with its seeds, in pixels."""


def _seeds_and_interval(
    field: str, summary: Rows, x: Any, format: str
) -> tuple[Any, Any, list[Any], list[Any]]:
    """The marks of seeds and of the mean's interval, one line per arm or pair.

    Args:
        field: `arm` or `pair`.
        summary: Name, mean, low, high (None without an interval).
        x: Encoding of a seed's value.
        format: Number format.

    Returns:
        The axis of the names; dots; intervals (empty if every name has one seed); their tooltip.
    """
    y = alt.Y(f"{field}:N", sort=[row[field] for row in summary], title=None, axis=IN_LINES)
    dots = (
        _base()
        .mark_circle(size=28, opacity=0.55, color=PALETTE[0])
        .encode(
            x=x,
            y=y,
            yOffset=alt.YOffset("seed:O", scale=alt.Scale(paddingOuter=1)),
            tooltip=[f"{field}:N", "seed:O", alt.Tooltip(x.shorthand, format=format)],
        )
    )
    tooltip = [alt.Tooltip(f"{key}:Q", format=format) for key in ("mean", "low", "high")]
    line = (
        _base("summary")
        .mark_rule(strokeWidth=2, color=INK)
        .encode(x=alt.X("low:Q"), x2="high:Q", y=y, tooltip=[f"{field}:N", *tooltip])
    )
    return y, dots, [line] if any(row["low"] is not None for row in summary) else [], tooltip


# -- scores ----------------------------------------------------------------------------------------


def scores(name: str, metric: str, rows: Rows, summary: Rows, teachers: Sequence[float]) -> Figure:
    """Scores: every seed as a dot, mean and interval of every arm, the teacher as a line.

    Args:
        name: Name of its files.
        metric: Name of the score.
        rows: arm, seed, score.
        summary: arm, mean, low, high (None without an interval).
        teachers: The score of every teacher.
    """
    y, dots, line, tooltip = _seeds_and_interval(
        "arm", summary, alt.X("score:Q", title=metric, scale=alt.Scale(zero=False)), ".4f"
    )
    mean = (
        _base("summary")
        .mark_point(shape="diamond", filled=True, size=90, color=PALETTE[1], opacity=1)
        .encode(x=alt.X("mean:Q"), y=y, tooltip=["arm:N", *tooltip])
    )
    rule = (
        _base("teacher")
        .mark_rule(color=PALETTE[2], strokeDash=[10, 4])
        .encode(x=alt.X("score:Q"), tooltip=["who:N", alt.Tooltip("score:Q", format=".4f")])
    )
    return Figure(
        name,
        f"{metric} by arm",
        "A dot is one seed, a diamond the mean with its 95 % interval; the long-dashed line is "
        "the teacher.",
        alt.layer(rule, dots, *line, mean).properties(
            width="container", height=BAND * len(summary)
        ),
        {
            "rows": rows,
            "summary": summary,
            "teacher": [{"who": "teacher", "score": score} for score in teachers],
        },
    )


def differences(name: str, rows: Rows, summary: Rows) -> Figure:
    """Paired differences by seed, with mean and interval.

    Args:
        name: Name of its files.
        rows: pair, seed, points.
        summary: pair, judged, mean, low, high (None without an interval), in points.
    """
    y, dots, line, tooltip = _seeds_and_interval(
        "pair", summary, alt.X("points:Q", title="difference, points"), "+.2f"
    )
    zero = _base("_zero").mark_rule(color=INK, opacity=QUIET).encode(x="at:Q")
    mean = (
        _base("summary")
        .mark_point(filled=True, size=90, opacity=1)
        .encode(
            x=alt.X("mean:Q"),
            y=y,
            shape=alt.Shape(
                "judged:N",
                title=None,
                scale=alt.Scale(domain=["judged", "described"], range=["diamond", "circle"]),
            ),
            color=alt.Color(
                "judged:N",
                title=None,
                scale=alt.Scale(domain=["judged", "described"], range=[PALETTE[1], PALETTE[8]]),
            ),
            tooltip=["pair:N", "judged:N", *tooltip],
        )
    )
    return Figure(
        name,
        "Paired differences",
        "A dot is the difference of two arms at one seed, in points; the line is the 95 % interval "
        "of the mean. Only judged pairs belong to the declared family and have a verdict.",
        alt.layer(zero, dots, *line, mean).properties(
            width="container", height=BAND * len(summary)
        ),
        {"rows": rows, "summary": summary, "_zero": [{"at": 0}]},
    )


def published(name: str, rows: Rows) -> Figure:
    """Published scores beside the range of one more run of ours.

    Args:
        name: Name of its files.
        rows: what, published, mean, low, high, report.
    """
    y = alt.Y("what:N", title=None, sort=None, axis=IN_LINES)
    base = _base()
    line = base.mark_rule(strokeWidth=2, color=PALETTE[0]).encode(
        x=alt.X("low:Q", title="score", scale=alt.Scale(zero=False)), x2="high:Q", y=y
    )
    mean = base.mark_circle(size=60, color=PALETTE[0], opacity=1).encode(x="mean:Q", y=y)
    theirs = base.mark_point(shape="cross", filled=True, size=90, color=PALETTE[1]).encode(
        x="published:Q",
        y=y,
        tooltip=[
            "what:N",
            *(
                alt.Tooltip(f"{key}:Q", format=".4f")
                for key in ("published", "mean", "low", "high")
            ),
        ],
    )
    return Figure(
        name,
        "Comparison with published scores",
        "The cross is the published score, the dot is our mean; the line is where one more run of "
        "ours would lie in 95 of 100 cases.",
        alt.layer(line, mean, theirs).properties(width="container", height=BAND * len(rows)),
        {"rows": rows},
    )


COSTS = {"parameters": "parameters, millions", "milliseconds": "milliseconds for one text"}
"""Field of each cost -> title of its axis."""


def costs(name: str, metric: str, rows: Rows) -> list[Figure]:
    """Score against parameters and against time, where these were measured.

    Args:
        name: End of the names of their files.
        metric: Name of the score.
        rows: name, kind (teacher or student), score, parameters (millions), milliseconds; the last
            two may be None.
    """
    charts = []
    for cost, title in COSTS.items():
        known = [
            {key: row[key] for key in ("name", "kind", "score", cost)} for row in rows if row[cost]
        ]
        marks = (
            _base()
            .mark_point(filled=True, size=80, opacity=0.8)
            .encode(
                x=alt.X(f"{cost}:Q", title=title, scale=alt.Scale(zero=True)),
                y=alt.Y("score:Q", title=metric, scale=alt.Scale(zero=False)),
                color=alt.Color("kind:N", title=None),
                shape=alt.Shape("kind:N", title=None),
                tooltip=[
                    "name:N",
                    alt.Tooltip(f"{cost}:Q", format=".1f"),
                    alt.Tooltip("score:Q", format=".4f"),
                ],
            )
        )
        names = (
            _base()
            .mark_text(align="right", dx=-9, fontSize=11, color=INK)
            .encode(x=f"{cost}:Q", y="score:Q", text="name:N")
        )
        figure = Figure(
            f"{cost}{name}",
            f"Score against {cost}",
            "Up is better, left is " + ("smaller." if cost == "parameters" else "faster."),
            alt.layer(marks, names).properties(width="container", height=240),
            {"rows": known},
        )
        charts += [figure] if known else []
    return charts


FRONTIERS = {"megabytes": "megabytes", "milliseconds": "milliseconds for one text"}


def frontier(name: str, metric: str, cost: str, rows: Rows, lines: Rows) -> Figure:
    """Scores against a cost, with the line of what no other student beats in both.

    Args:
        name: Name of its files.
        metric: Name of the score.
        cost: `megabytes` or `milliseconds`.
        rows: name, kind, score and the cost; `frontier` says whether the student is on the line.
        lines: score and name of each horizontal line.
    """
    x = alt.X(f"{cost}:Q", title=FRONTIERS[cost], scale=alt.Scale(zero=True))
    y = alt.Y("score:Q", title=metric, scale=alt.Scale(zero=False))
    marks = (
        _base()
        .mark_point(filled=True, size=80, opacity=0.8)
        .encode(
            x=x,
            y=y,
            color=alt.Color("kind:N", title=None),
            shape=alt.Shape("kind:N", title=None),
            tooltip=[
                "name:N",
                "kind:N",
                alt.Tooltip(f"{cost}:Q", format=".2f"),
                alt.Tooltip("score:Q", format=".4f"),
            ],
        )
    )
    step = (
        _base()
        .mark_line(interpolate="step-after", color=INK, opacity=QUIET)
        .transform_filter("datum.frontier")
        .encode(x=f"{cost}:Q", y="score:Q")
    )
    rule = (
        alt.Chart(alt.NamedData("_lines"))
        .mark_rule(strokeDash=[4, 4], color=INK, opacity=0.6)
        .encode(y="score:Q", tooltip=["name:N", alt.Tooltip("score:Q", format=".4f")])
    )
    shown = [{key: row[key] for key in ("name", "kind", "score", "frontier", cost)} for row in rows]
    return Figure(
        name,
        f"Score against {cost}",
        "A dot is a student after its last round. On the line are those that no other student "
        "beats in both. The dashed lines are the teacher, the floor, and models without a "
        "teacher if they were asked for; point at one to see its name.",
        alt.layer(step, rule, marks).properties(width="container", height=280),
        {"rows": shown, "_lines": lines},
    )


# -- over time -------------------------------------------------------------------------------------


def _of_seeds(seeds: int) -> str:
    return f", mean over up to {seeds} seeds" if seeds > 1 else ""


def by_epoch(
    name: str, metric: str, rows: Rows, teachers: Sequence[float], seeds: int = 1
) -> Figure:
    """Scores after each epoch, mean over seeds.

    Args:
        name: Name of its files.
        metric: Name of the score.
        rows: arm (or, of one run, split), epoch, score.
        teachers: The score of every teacher.
        seeds: Largest number of seeds of an arm.
    """
    line = "split" if rows and "split" in rows[0] else "arm"
    epochs = thin(sorted({row["epoch"] for row in rows}), 11)
    lines = (
        _base()
        .mark_line(point={"size": 30})
        .encode(
            x=alt.X("epoch:Q", axis=alt.Axis(values=epochs, format="d")),
            y=alt.Y("score:Q", title=metric, scale=alt.Scale(zero=False)),
            tooltip=[f"{line}:N", "epoch:Q", alt.Tooltip("score:Q", format=".4f")],
            **_by_name(line, (row[line] for row in rows)),
        )
    )
    rule = (
        _base("teacher")
        .mark_rule(color=INK, strokeDash=[10, 4], opacity=0.6)
        .encode(y="score:Q", tooltip=["who:N", alt.Tooltip("score:Q", format=".4f")])
    )
    return Figure(
        name,
        f"{metric} by epoch",
        f"Score after each epoch{_of_seeds(seeds)}."
        + " The long-dashed line is the teacher." * bool(teachers),
        alt.layer(*([rule] if teachers else []), lines).properties(width="container", height=240),
        {
            "rows": rows,
            "teacher": [{"who": "teacher", "score": score} for score in teachers],
        },
    )


def losses(name: str, rows: Rows, seeds: int = 1) -> Figure:
    """Every part of the loss over time, not multiplied by its weight.

    Args:
        name: Name of its files.
        rows: part, arm, step, loss.
        seeds: Largest number of seeds of an arm.
    """
    lines = (
        _base()
        .mark_line()
        .encode(
            x=alt.X("step:Q", axis=alt.Axis(tickCount=4)),
            y=alt.Y("loss:Q", title=None, scale=alt.Scale(zero=False)),
            tooltip=["part:N", "arm:N", "step:Q", alt.Tooltip("loss:Q", format=".4f")],
            **_by_name("arm", (row["arm"] for row in rows)),
        )
    )
    chart = (
        lines.properties(width=SMALL, height=140)
        .facet(facet=_facet("part", rows), columns=3)
        .resolve_scale(x="independent", y="independent")
    )
    return Figure(
        name,
        "Parts of the loss",
        f"Each part on its own scale, not multiplied by its weight{_of_seeds(seeds)}.",
        chart,
        {"rows": rows},
        cell=SMALL,
    )


SMALL = 190
"""Width of a small multiple in pixels."""


def entropy(name: str, rows: Rows, most: float) -> Figure:
    """The entropy of α over time, by student layer.

    Args:
        name: Name of its files.
        rows: layer, step, entropy (nats).
        most: Entropy of a uniform α.
    """
    lines = (
        _base()
        .mark_line()
        .encode(
            x="step:Q",
            y=alt.Y("entropy:Q", title="H(α), nats", scale=alt.Scale(zero=True)),
            **_by_name("layer", (row["layer"] for row in rows)),
            tooltip=["layer:N", "step:Q", alt.Tooltip("entropy:Q", format=".3f")],
        )
    )
    rule = (
        _base("_uniform")
        .mark_rule(color=INK, strokeDash=[10, 4], opacity=0.6)
        .encode(y="entropy:Q")
    )
    return Figure(
        name,
        "Entropy of α over time",
        "The dashed line is the entropy of a uniform α; at 0 a student layer follows a single "
        "teacher layer.",
        alt.layer(rule, lines).properties(width="container", height=180),
        {"rows": rows, "_uniform": [{"entropy": most}]},
    )


# -- α ---------------------------------------------------------------------------------------------


def _heat(rows: str = "rows") -> tuple[Any, Any]:
    """Cells and their numbers, student layer × teacher layer."""
    base = _base(rows).encode(
        x=alt.X("teacher:O", title="teacher layer", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("student:O", title="student layer", sort="descending"),
    )
    cells = base.mark_rect().encode(
        color=alt.Color(
            "alpha:Q",
            title="α",
            scale=alt.Scale(domain=[0, 1], scheme="viridis"),
            legend=alt.Legend(gradientLength=140),
        ),
        tooltip=[
            "student:O",
            "teacher:O",
            alt.Tooltip("alpha:Q", format=".3f"),
        ],
    )
    numbers = base.mark_text(fontSize=11).encode(
        text=alt.Text("alpha:Q", format=".2f"),
        color=alt.condition(f"datum.alpha < {DARK}", alt.value("#ffffff"), alt.value("#000000")),
    )
    return cells, numbers


def alpha(name: str, rows: Rows, steps: Sequence[int], seeds: int = 1) -> Figure:
    """α as a heat map with a slider over training time.

    Args:
        name: Name of its files.
        rows: frame, step, student, teacher, alpha.
        steps: The step of every frame.
        seeds: Number of seeds over which α was averaged.
    """
    frame = alt.param(name="frame", value=len(steps) - 1)
    cells, numbers = _heat()
    teachers = len({row["teacher"] for row in rows})
    chart = (
        alt.layer(cells, numbers)
        .transform_filter("datum.frame == frame")
        .add_params(frame)
        .properties(width={"step": 56 if teachers <= 6 else 38}, height={"step": 42})
    )
    return Figure(
        name,
        "α: what each student layer learned from",
        f"Each row adds up to 1{f'; mean over {seeds} seeds' * (seeds > 1)}."
        + " Move the slider to see earlier steps." * (len(steps) > 1),
        chart,
        {"rows": rows},
        steps=steps,
    )


def alpha_by_seed(name: str, rows: Rows) -> Figure:
    """The final α of every seed, as small multiples.

    Args:
        name: Name of its files.
        rows: seed, student, teacher, alpha.
    """
    cells, _ = _heat()
    chart = (
        cells.encode(tooltip=["seed:O", "student:O", "teacher:O", alt.Tooltip("alpha:Q")])
        .properties(width=90, height=90)
        .facet(facet=alt.Facet("seed:O", title="seed"), columns=5)
    )
    return Figure(
        name,
        "The final α of every seed",
        "If the pictures look alike, α does not depend on the seed.",
        chart,
        {"rows": rows},
        cell=90,
    )


# -- shares of the gradient, predictions -----------------------------------------------------------


def gradient_shares(name: str, rows: Rows) -> Figure:
    """Each part's share of the gradient in the first steps.

    Args:
        name: Name of its files.
        rows: arm, part, share.
    """
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    bars = (
        _base()
        .mark_bar()
        .encode(
            x=alt.X("share:Q", title="share of the gradient", axis=alt.Axis(format="%")),
            y=alt.Y("arm:N", sort=arms, title=None),
            color=alt.Color("part:N", title=None, sort=None),
            tooltip=["arm:N", "part:N", alt.Tooltip("share:Q", format=".1%")],
        )
    )
    return Figure(
        name,
        "Shares of the gradient in the first 300 steps",
        "Norm of each part's gradient on the student, divided by the sum of all norms.",
        bars.properties(width="container", height=26 * len(arms)),
        {"rows": rows},
    )


def confusion(name: str, rows: Rows, classes: Sequence[str], seeds: int = 1) -> Figure:
    """Predictions by true class, one matrix for each model.

    Args:
        name: Name of its files.
        rows: model, label, prediction, share (of the label's rows), rows.
        classes: In the order of their indices.
        seeds: Largest number of seeds of a model.
    """
    few = len(classes) <= MANY_CLASSES
    base = _base().encode(
        x=alt.X(
            "prediction:N",
            sort=list(classes),
            axis=alt.Axis(labelAngle=-40, labelLimit=90, labels=few, ticks=few),
        ),
        y=alt.Y("label:N", sort=list(classes), axis=alt.Axis(labelLimit=90, labels=few, ticks=few)),
    )
    cells = base.mark_rect().encode(
        color=alt.Color("share:Q", scale=alt.Scale(domain=[0, 1], scheme="viridis"), legend=None),
        tooltip=[
            "model:N",
            "label:N",
            "prediction:N",
            alt.Tooltip("share:Q", format=".1%"),
            alt.Tooltip("rows:Q", format=",.1f"),
        ],
    )
    numbers = base.mark_text(fontSize=11).encode(
        text=alt.Text("share:Q", format=".0%"),
        color=alt.condition(f"datum.share < {DARK}", alt.value("#ffffff"), alt.value("#000000")),
    )
    wide = max(90, min(190, 34 * len(classes)))
    layers = [cells, numbers] if few else [cells]
    chart = (
        alt.layer(*layers)
        .properties(width=wide, height=wide)
        .facet(facet=_facet("model", rows), columns=3)
    )
    return Figure(
        name,
        "Confusion",
        f"A row is a true class, a column a predicted class; a row adds up to 100 %"
        f"{_of_seeds(seeds)}.",
        chart,
        {"rows": rows},
        cell=wide,
    )


MANY_CLASSES = 10
"""With more classes, a confusion matrix shows no names and numbers."""


def calibration(name: str, rows: Rows, seeds: int = 1) -> Figure:
    """Accuracy by confidence.

    Args:
        name: Name of its files.
        rows: model, confidence, accuracy, rows.
        seeds: Largest number of seeds of a model.
    """
    even = (
        _base("_even")
        .mark_line(color=INK, opacity=QUIET, strokeDash=[10, 4])
        .encode(x="at:Q", y="at:Q")
    )
    lines = (
        _base()
        .mark_line(point={"size": 30})
        .encode(
            x=alt.X("confidence:Q", title="confidence", axis=alt.Axis(format="%")),
            y=alt.Y("accuracy:Q", title="accuracy", axis=alt.Axis(format="%")),
            **_by_name("model", (row["model"] for row in rows)),
            tooltip=[
                "model:N",
                alt.Tooltip("confidence:Q", format=".1%"),
                alt.Tooltip("accuracy:Q", format=".1%"),
                alt.Tooltip("rows:Q", format=",.0f"),
            ],
        )
    )
    return Figure(
        name,
        "Calibration",
        "On the dashed line accuracy equals confidence; below it the model is overconfident. Ten "
        + "bins, predictions of all seeds together." * (seeds > 1)
        + "bins." * (seeds == 1),
        alt.layer(even, lines).properties(width="container", height=260),
        {"rows": rows, "_even": [{"at": 0}, {"at": 1}]},
    )


def numbers(name: str, rows: Rows, seeds: int = 1) -> Figure:
    """Answers against labels, one picture for each model.

    Args:
        name: Name of its files.
        rows: model, row, label, answer.
        seeds: Largest number of seeds of a model.
    """
    ends = [row[side] for row in rows for side in ("label", "answer")]
    base = _base()
    even = (
        base.transform_aggregate(rows="count()")  # one line, not one for each row
        .mark_rule(color=INK, opacity=QUIET, strokeDash=[10, 4])
        .encode(
            x=alt.XDatum(min(ends)),
            y=alt.YDatum(min(ends)),
            x2=alt.X2Datum(max(ends)),
            y2=alt.Y2Datum(max(ends)),
        )
    )
    dots = base.mark_circle(size=18, opacity=0.5, color=PALETTE[0]).encode(
        x=alt.X("label:Q", title="label", scale=alt.Scale(zero=False)),
        y=alt.Y("answer:Q", title="answer", scale=alt.Scale(zero=False)),
        tooltip=[
            "model:N",
            "row:O",
            alt.Tooltip("label:Q", format=".4g"),
            alt.Tooltip("answer:Q", format=".4g"),
        ],
    )
    return Figure(
        name,
        "Answers",
        f"A dot is a row; on the dashed line the answer is the label{_of_seeds(seeds)}.",
        alt.layer(even, dots)
        .properties(width=190, height=190)
        .facet(facet=_facet("model", rows), columns=3),
        {"rows": rows},
        cell=190,
    )


def by_label(name: str, rows: Rows, seeds: int = 1, what: str = "label") -> Figure:
    """F1 of each label.

    Args:
        name: Name of its files.
        rows: model, label, f1, rows.
        seeds: Largest number of seeds of a model.
        what: What a label is called.
    """
    labels = list(dict.fromkeys(row["label"] for row in rows))
    models = list(dict.fromkeys(row["model"] for row in rows))
    dots = (
        _base()
        .mark_point(filled=True, size=70, opacity=0.8)
        .encode(
            x=alt.X("f1:Q", title="F1", scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("label:N", sort=labels, title=None),
            color=alt.Color(
                "model:N", title=None, scale=alt.Scale(domain=models, range=_cycle(PALETTE, models))
            ),
            shape=alt.Shape("model:N", title=None, scale=alt.Scale(domain=models)),
            tooltip=[
                "label:N",
                "model:N",
                alt.Tooltip("f1:Q", format=".4f"),
                alt.Tooltip("rows:Q", format=",.0f"),
            ],
        )
    )
    return Figure(
        name,
        f"F1 of each {what}",
        f"In the order of the data{_of_seeds(seeds)}.",
        dots.properties(width="container", height=26 * len(labels)),
        {"rows": rows},
    )


def save_all(figures: Iterable[Figure], folder: Path) -> list[Path]:
    """Write every figure as SVG, PDF and PNG, and its data as CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    return [file for figure in figures for file in figure.save(folder)]
