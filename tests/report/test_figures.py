"""Figures: valid specifications, legible colours, files for papers."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from layermix.report import figures

SCORES = [{"arm": arm, "seed": seed, "score": 0.7} for arm in "ab" for seed in range(3)]
SUMMARY = [{"arm": arm, "mean": 0.7, "low": 0.6, "high": 0.8} for arm in "ab"]
ALPHA = [
    {"frame": f, "step": 10 * f, "student": s, "teacher": t, "alpha": 0.5}
    for f in range(3)
    for s in (0, 1)
    for t in (2, 5)
]


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colour", figures.PALETTE)
@pytest.mark.parametrize("paper", ["#ffffff", "#15181b"])
def test_every_colour_is_seen_on_both_papers(colour: str, paper: str) -> None:
    assert contrast(colour, paper) >= 3


def test_a_figure_is_written_in_every_format_with_its_numbers(tmp_path: Path) -> None:
    figure = figures.scores("scores", "accuracy", SCORES, SUMMARY, [0.8])
    files = figures.save_all([figure], tmp_path / "new")
    assert [file.name for file in files] == [
        "scores.svg",
        "scores.pdf",
        "scores.png",
        "scores.csv",
        "scores-summary.csv",
        "scores-teacher.csv",
    ]
    svg, pdf, png = (file.read_bytes() for file in files[:3])
    assert svg.startswith(b"<svg")
    assert b"currentColor" not in svg
    assert pdf.startswith(b"%PDF")
    assert png.startswith(b"\x89PNG")
    rows = list(csv.DictReader(files[3].read_text("utf-8").splitlines()))
    assert rows == [{key: str(value) for key, value in row.items()} for row in SCORES]


def test_lines_to_compare_with_are_no_numbers(tmp_path: Path) -> None:
    figure = figures.entropy("entropy", [{"layer": "0", "step": 1, "entropy": 0.5}], 0.69)
    assert [file.suffix for file in figure.save(tmp_path)] == [".svg", ".pdf", ".png", ".csv"]


def test_the_slider_stands_at_the_end_and_a_file_shows_the_end(tmp_path: Path) -> None:
    spec = figures.alpha("alpha", ALPHA, [0, 10, 20]).spec()
    assert spec["usermeta"]["steps"] == [0, 10, 20]
    (moment,) = (one for one in spec["params"] if one["name"] == "frame")
    assert moment["value"] == 2
    changed = [row | {"alpha": 0.25} if row["frame"] == 2 else row for row in ALPHA]
    (svg, *_) = figures.alpha("alpha", changed, [0, 10, 20]).save(tmp_path)
    assert ">0.25<" in svg.read_text("utf-8")
    assert ">0.50<" not in svg.read_text("utf-8")


def test_names_of_the_data_are_values_only() -> None:
    nasty = "</script>'] || datum.x; \"\u202eabc"
    rows = [row | {"arm": nasty} for row in SCORES]
    summary = [SUMMARY[0] | {"arm": nasty}]
    spec = figures.scores("scores", "accuracy", rows, summary, []).spec()
    data = spec.pop("datasets")
    assert data["rows"][0]["arm"] == nasty

    def strings(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [found for inner in value.values() for found in strings(inner)]
        if isinstance(value, list):
            return [found for inner in value for found in strings(inner)]
        return [value] if isinstance(value, str) else []

    assert [one for one in strings(spec) if nasty in one] == [nasty, nasty, nasty]  # sort orders
    assert json.dumps(spec)


def test_one_line_needs_no_legend_and_many_repeat_the_colours() -> None:
    one = figures.losses("losses", [{"part": "hidden", "arm": "a", "step": 1, "loss": 1.0}])
    assert one.spec()["spec"]["encoding"]["color"]["legend"] is None
    rows = [{"part": "hidden", "arm": str(n), "step": 1, "loss": 1.0} for n in range(12)]
    scale = figures.losses("losses", rows).spec()["spec"]["encoding"]["color"]["scale"]
    assert scale["range"][9:] == list(figures.PALETTE[:3])


def test_one_seed_has_no_interval_to_draw() -> None:
    summary = [{"arm": "a", "mean": 0.7, "low": None, "high": None}]
    assert len(figures.scores("s", "accuracy", SCORES[:1], summary, []).spec()["layer"]) == 3


def test_many_classes_have_no_room_for_numbers() -> None:
    names = [str(number) for number in range(figures.MANY_CLASSES + 1)]
    row = {"model": "m", "label": "0", "prediction": "0", "share": 1.0, "rows": 1.0}
    few = figures.confusion("c", [row], names[:2]).spec()["spec"]["layer"]
    many = figures.confusion("c", [row], names).spec()["spec"]["layer"]
    assert (len(few), len(many)) == (2, 1)


def test_numbers_are_read_on_every_shade() -> None:
    import vl_convert

    values = [{"alpha": n / 100} for n in range(101)]
    encoding = {
        "x": {"field": "alpha", "type": "ordinal"},
        "color": {
            "field": "alpha",
            "type": "quantitative",
            "scale": {"domain": [0, 1], "scheme": "viridis"},
        },
    }
    spec = {"data": {"values": values}, "mark": "rect", "encoding": encoding}
    svg = vl_convert.vegalite_to_svg(spec)
    found = re.findall(r'aria-label="alpha: ([\d.]+)".{0,200}?fill="(rgb[^"]+)"', svg)
    assert len(found) == 101
    for alpha, colour in found:
        shade = "#" + "".join(f"{int(part):02x}" for part in re.findall(r"\d+", colour))
        ink = "#ffffff" if float(alpha) < figures.DARK else "#000000"
        assert contrast(shade, ink) >= 4.5, alpha
