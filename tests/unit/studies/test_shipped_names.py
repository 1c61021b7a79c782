"""Cells of the shipped studies keep their names, so that finished cells are found again."""

import hashlib
from pathlib import Path

import pytest

from layermix.studies.plan import make_plan
from layermix.studies.spec import load_study

CONFIGS = Path(__file__).parents[3] / "configs"
NAMES = {
    "studies/ablations/entropy.yaml": (16, "bdd39c88bc99"),
    "studies/ablations/frozen-mix.yaml": (10, "60350815b845"),
    "studies/ablations/hidden-weight.yaml": (13, "6be4de2c6af9"),
    "studies/ablations/loss-parts.yaml": (19, "03fa698c1439"),
    "studies/ablations/mix-rate.yaml": (13, "c5ace7d692c7"),
    "studies/ablations/mix-start.yaml": (7, "434276c435cf"),
    "studies/ablations/projection.yaml": (13, "b5327047fa27"),
    "studies/ablations/reduction.yaml": (13, "90e9c18ca1de"),
    "studies/ablations/student-blocks.yaml": (10, "2621ed90d0c4"),
    "studies/ablations/teacher-layers.yaml": (13, "3a81e82682d4"),
    "studies/ablations/warmup.yaml": (13, "8d2e5883fe31"),
    "studies/label-kinds.yaml": (21, "88265331ad48"),
    "studies/token-labels.yaml": (7, "cb8152d22c60"),
    "studies/soft-labels.yaml": (6, "fd5f91a3a316"),
    "studies/local-main.yaml": (100, "2c866ec7d402"),
    "studies/local-qnli.yaml": (13, "119f54db2612"),
    "studies/local-recipe-confirmed.yaml": (21, "a419c540f7ba"),
    "studies/local-recipe.yaml": (17, "f5ce74889cb7"),
    "studies/local-small-data.yaml": (37, "f0c4c3a55b77"),
    "studies/more-rows-ablation.yaml": (62, "e7c4c33554f8"),
    "studies/more-rows-confirmed.yaml": (82, "35a36855d64e"),
    "studies/more-rows-qnli.yaml": (9, "df2cca6cd846"),
    "studies/narrow.yaml": (13, "0dd989c0be2c"),
    "studies/narrow-pretrained.yaml": (7, "8ddd89dd09b7"),
    "studies/vocabulary.yaml": (10, "e66c4000bf7d"),
    "studies/more-rows.yaml": (13, "d7b1c61482a5"),
    "paper/local-mrpc.yaml": (29, "53fb84924143"),
    "paper/local-qnli.yaml": (29, "61b40f4945fc"),
    "paper/local-rte.yaml": (29, "d26390561112"),
    "paper/mrpc.yaml": (29, "959819716231"),
    "paper/pretrained-mrpc.yaml": (10, "75d7aefd3819"),
    "paper/qnli.yaml": (29, "6dde44e453a7"),
    "paper/rte.yaml": (29, "ef5738fe5e2b"),
}
"""File -> number of its cells and teachers, and a hash of their names in order."""


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*/**/*.yaml")), ids=lambda file: file.stem)
def test_a_shipped_study_keeps_the_names_of_its_cells_and_teachers(file: Path) -> None:
    plan = make_plan(load_study(file), None)
    names = [*plan.runs, *plan.teachers]
    hashed = hashlib.sha256(" ".join(names).encode()).hexdigest()[:12]
    assert NAMES[str(file.relative_to(CONFIGS))] == (len(names), hashed)
