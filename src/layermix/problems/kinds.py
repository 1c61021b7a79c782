"""The kinds of label that layermix has, by name."""

from collections.abc import Mapping

from layermix.problems.classification import CLASSIFICATION
from layermix.problems.problem import Problem

PROBLEMS: Mapping[str, Problem] = {CLASSIFICATION.name: CLASSIFICATION}
"""Name in records -> the kind of label."""
