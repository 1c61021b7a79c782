"""Objects of the user's own that take part in a run beside what the config describes."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import TrainerCallback

from layermix.core.alpha_learner import AlphaLearner
from layermix.core.mixing import Mix
from layermix.core.terms import Term


@dataclass(frozen=True)
class Extensions:
    """What a caller of `distill_from` adds to the config.

    Attributes:
        mix: A way to mix, instead of the config's.
        terms: Terms of the loss, after those of the config.
        alpha_learner: The rule by which α learns, instead of the paper's.
        callbacks: Of `transformers.Trainer`; an `OutputCallback` gets every `Output` as well.
    """

    mix: Mix | None = None
    terms: Sequence[Term] = ()
    alpha_learner: AlphaLearner | None = None
    callbacks: Sequence[TrainerCallback] = ()

    @property
    def wants_held_out(self) -> bool:
        """Whether α learns from rows that are not trained on."""
        return self.alpha_learner is not None and self.alpha_learner.held_out_rows > 0

    def described(self) -> list[str]:
        """Return a line for each object that changes what is learned, for the run's config.

        A resumed run must have the same ones.
        """
        lines = [] if self.mix is None else [f"mix: {type(self.mix).__name__}"]
        lines += [f"term: {type(term).__name__}, weight {term.weight:g}" for term in self.terms]
        if self.alpha_learner is not None:
            lines.append(f"alpha_learner: {type(self.alpha_learner).__name__}")
        return lines


NONE = Extensions()
