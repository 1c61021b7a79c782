"""Narrows a classifier: a student with fewer heads, units and coordinates, from its weights.

What stays: of each block the heads and the units of the feed-forward layer whose removal would
change the loss most, to first order (|∂L/∂mask|, summed over examples: Hou et al., DynaBERT, arXiv
2004.04037, section 2.1; Molchanov et al., arXiv 1611.06440), and the hidden states in a basis of
fewer coordinates. What is gone is made up for as far as a linear map can: one after the other, each
matrix is fitted by least squares, so that from the student's own inputs it gives what the whole
model's gives, and each norm's scale and bias likewise.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from layermix.config import LabelLossConfig
from layermix.core.least_squares import RIDGE, LeastSquares
from layermix.core.mixing import MixPlan
from layermix.core.signals import Batch, Needs
from layermix.core.terms import Asks, ForwardPass, Term
from layermix.data.splits import labels_of, take
from layermix.data.texts import TextData
from layermix.data.tokenization import Collator, choose_max_length, tokenize_split, tokenize_texts
from layermix.errors import ModelError, Note
from layermix.models.encoder import Classifier, HFEncoder, blocks_of, blocks_path
from layermix.models.students import copy_blocks, fresh_student
from layermix.problems.classification import CLASSIFICATION
from layermix.problems.problem import Problem

ROWS, TOKENS = 256, 20_000
"""Texts on which heads and units are compared and matrices are fitted, and their tokens, at most:
memory holds what each of a block's matrices makes of all of them."""

BATCH_SIZE = 32
"""Rows of a forward pass; only the rounding of the result depends on it."""


@dataclass(frozen=True)
class Modules:
    """The names of the modules that narrowing changes in a block of a family.

    Attributes:
        read: The matrices that make queries, keys and values of the block's input.
        attended: The matrix after the heads.
        attention_norm: The norm after it, of its output and the block's input.
        units: The first matrix of the feed-forward layer.
        ffn: Its second.
        norm: The norm after it, of its output and its input.
    """

    read: tuple[str, str, str]
    attended: str
    attention_norm: str
    units: str
    ffn: str
    norm: str

    @property
    def norms(self) -> tuple[str, str]:
        """Both norms, in their order."""
        return self.attention_norm, self.norm


_BERT = Modules(
    ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
_DISTILBERT = Modules(
    ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    "attention.out_lin",
    "sa_layer_norm",
    "ffn.lin1",
    "ffn.lin2",
    "output_layer_norm",
)
FAMILIES: Mapping[str, Modules] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra"), _BERT),
    "distilbert": _DISTILBERT,
}
"""Families that can be narrowed: post-norm blocks, positions in the embeddings."""


@dataclass(frozen=True)
class Importance:
    """How much the loss would change without a part, to first order, summed over examples.

    Attributes:
        heads: Of each block its heads', (L, H).
        units: Of each block its feed-forward units', (L, F).
        pooled: The head's hidden units', (D,); None if the classifier has one matrix after the
            blocks.
    """

    heads: Tensor
    units: Tensor
    pooled: Tensor | None


def narrow_student(
    teacher: Classifier,
    texts: TextData,
    layers: int | None,
    sizes: Mapping[str, int],
    *,
    spread: bool = False,
    max_length: int | None = None,
) -> Classifier:
    """Returns a student of smaller sizes that starts from the teacher's weights.

    Args:
        teacher: Not changed, but moved to the CPU.
        texts: `ROWS` of the training rows, and of those without labels if they are fewer, chosen by
            a hash of the text, decide what stays. A row without a label counts with the teacher's
            answer.
        layers: Number of the teacher's blocks; all if None.
        sizes: Any of hidden, heads and ffn; others stay the teacher's.
        spread: Take the last block of equal groups, not the first blocks.
        max_length: Most tokens of a row; chosen from the texts if None.

    Returns:
        The student, with its `widening`.

    Raises:
        ModelError: If its family cannot be narrowed, the sizes do not fit, or no part matters.
    """
    check_narrowable(teacher.model, sizes)
    batches = _batches(teacher, texts, max_length)
    labels = labels_of(texts.splits["train"]["label"])
    term = texts.problem.supervised_term(LabelLossConfig(), 1.0, labels, texts.label_names)
    found = importance(teacher, batches, texts.problem, term)
    return _narrowed(teacher, batches, found, layers, sizes, spread=spread)


def narrow_encoder(
    teacher: Classifier,
    texts: Sequence[str],
    layers: int | None,
    sizes: Mapping[str, int],
    *,
    spread: bool = False,
    max_length: int,
) -> Classifier:
    """Returns an encoder of smaller sizes that starts from the teacher's weights, without labels.

    As `narrow_student`, but what stays is what the last hidden states depend on most: the
    loss is ⟨h, r⟩, with signs r drawn anew for every coordinate, whose squared derivative by a mask
    is, over draws of r, the squared norm of the derivative of h.

    Args:
        teacher: Not changed, but moved to the CPU. Its head is not used.
        texts: The first `ROWS` of them decide what stays.
        layers: Number of the teacher's blocks; all if None.
        sizes: Any of hidden, heads and ffn; others stay the teacher's.
        spread: Take the last block of equal groups, not the first blocks.
        max_length: Most tokens of a row.

    Raises:
        ModelError: If its family cannot be narrowed, the sizes do not fit, or no part matters.
    """
    check_narrowable(teacher.model, sizes)
    given = [(text,) for text in texts[:ROWS]]
    batches = _padded(tokenize_texts(given, teacher.tokenizer, max_length)[0], teacher)
    term = LastStates(len(blocks_of(teacher.model)) - 1)
    found = importance(teacher, batches, CLASSIFICATION, term)
    return _narrowed(teacher, batches, found, layers, sizes, spread=spread)


class LastStates(Term):
    """⟨h, r⟩ over the tokens of an example: its last hidden states in a random direction.

    Args:
        last: The number of the last block.
    """

    name = symbol = "last_states"

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last
        self.draws = torch.Generator().manual_seed(0)

    def asks(self, plan: MixPlan | None) -> Asks:
        """Return what the term looks at: the last block's output."""
        return Asks(student=Needs(layers=(self.last,)))

    def forward(self, given: ForwardPass) -> Tensor:
        """Return it for each example, (B,); r is ±1, drawn anew for each batch."""
        assert given.student.hidden is not None
        states = given.student.hidden[0] * given.student.mask[..., None]
        signs = torch.randint(2, states.shape, generator=self.draws) * 2 - 1
        return (states * signs).sum((1, 2))


def _narrowed(
    teacher: Classifier,
    batches: Sequence[Batch],
    found: Importance,
    layers: int | None,
    sizes: Mapping[str, int],
    *,
    spread: bool,
) -> Classifier:
    """The student with the parts that matter most, fitted on the batches."""
    depth = len(blocks_of(teacher.model))
    whole = copy_blocks(teacher, layers or depth, spread=spread)
    blocks: list[int] = whole.start["blocks"]
    student = fresh_student(teacher, 0, len(blocks), sizes)
    config: Any = student.model.config
    heads, width = config.num_attention_heads, config.hidden_size
    units = _sizes_of(student.model)["ffn"]
    kept = _Kept(
        [_largest(found.heads[block], heads) for block in blocks],
        [_largest(found.units[block], units) for block in blocks],
        None if found.pooled is None else _largest(found.pooled, width),
    )
    wide, narrow = cast(Any, (whole.model, student.model))
    with torch.no_grad():
        widening, share = _Filling(wide.eval(), narrow.eval(), kept, batches).run()
    narrow.train()
    has = _sizes_of(teacher.model)
    cut = [
        f"{sizes[name]:,} of {has[name]:,} {what}" for name, what in PARTS.items() if name in sizes
    ]
    text = (
        f"the student starts from the teacher's blocks {', '.join(map(str, blocks))} with "
        f"{', '.join(cut)}; its hidden states give {share:.0%} of the variance of the whole ones'"
    )
    start = {"kind": "narrowed", "from": teacher.source, "blocks": blocks, **sizes}
    notes = (Note("narrowed", text),)
    return replace(student, source=teacher.source, start=start, notes=notes, widening=widening)


PARTS = {"hidden": "coordinates", "heads": "heads", "ffn": "feed-forward units"}
"""What the sizes of a student count."""


def _sizes_of(model: PreTrainedModel) -> dict[str, int]:
    """The sizes of a model, by the names that a student's have."""
    config: Any = model.config
    units: Any = blocks_of(model)[0].get_submodule(FAMILIES[config.model_type].units)
    return {
        "hidden": int(config.hidden_size),
        "heads": int(config.num_attention_heads),
        "ffn": int(units.out_features),
    }


def check_narrowable(model: PreTrainedModel, sizes: Mapping[str, int]) -> None:
    """Raises a ModelError if a model cannot be narrowed to these sizes, with every reason."""
    config: Any = model.config
    if config.model_type not in FAMILIES:
        raise ModelError(
            f"a {type(model).__name__} cannot be narrowed; wanted a teacher of the families "
            f"{', '.join(FAMILIES)}. Use --student.start random, or --student.layers alone, which "
            "copies its blocks"
        )
    has = _sizes_of(model)
    problems = [
        f"{name} is {size}, and the teacher has {has[name]}: give at most that"
        for name, size in sizes.items()
        if size > has[name]
    ]
    of_head = has["hidden"] // has["heads"]
    hidden, heads = (sizes.get(name, has[name]) for name in ("hidden", "heads"))
    if hidden % of_head:
        fitting = max(of_head, hidden // of_head * of_head)
        problems.append(
            f"hidden is {hidden}, and heads of the teacher's size have {of_head} coordinates: give "
            f"a multiple of that, such as hidden {fitting} with heads {fitting // of_head}"
        )
    elif hidden != heads * of_head:
        problems.append(
            f"hidden {hidden} with heads {heads} makes heads of another size than the teacher's "
            f"{of_head} coordinates: give heads {hidden // of_head}, or hidden {heads * of_head}"
        )
    if hidden != has["hidden"] and hidden == getattr(config, "embedding_size", None):
        problems.append(
            f"hidden is {hidden}, as wide as its embeddings, and ELECTRA then has no matrix after "
            "them: give another hidden"
        )
    if problems:
        raise ModelError(
            f"the teacher cannot be narrowed to these sizes: {'; '.join(problems)}; or use "
            "--student.start random"
        )


# -- which parts stay ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kept:
    """The numbers of the heads and units that stay, ascending, by block, and of pooled units."""

    heads: Sequence[Tensor]
    units: Sequence[Tensor]
    pooled: Tensor | None


def _largest(scores: Tensor, count: int) -> Tensor:
    """The places of the largest scores, ascending; of equal ones the first."""
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def importance(
    teacher: Classifier, batches: Sequence[Batch], problem: Problem, term: Term
) -> Importance:
    """Returns how much each head and unit matters: Σ over examples of |∂L/∂mask|, mask at 1.

    Args:
        teacher: Is moved to the CPU, where results are the same on every machine.
        batches: Padded rows with labels.
        problem: The kind of label; a row without one counts with the teacher's answer.
        term: L, the loss; it looks at the student alone.

    Raises:
        ModelError: If nothing matters: all scores are 0.
    """
    model: Any = teacher.model
    mode = model.training
    model.eval().to("cpu")
    names, head = FAMILIES[model.config.model_type], _head_of(model)
    inner: list[nn.Module] = [
        block.get_submodule(name)
        for block in blocks_of(model)
        for name in (names.attended, names.ffn)
    ]
    watched = [*inner, *head[1:]]
    encoder, totals = HFEncoder(model), [torch.zeros(())] * len(watched)
    for batch in batches:
        with _watched(watched, differentiable=True) as seen:
            signal = encoder(batch, term.asks(None).student)
        labels = _with_answers(batch["labels"], signal.logits.detach(), problem)
        loss = term(ForwardPass({**batch, "labels": labels}, signal)).sum()
        states = [seen.inputs[module] for module in watched]
        gradients = torch.autograd.grad(loss, states, allow_unused=True, materialize_grads=True)
        for number, (state, gradient) in enumerate(zip(states, gradients, strict=True)):
            change = (state.detach() * gradient).reshape(len(state), -1, state.shape[-1]).sum(1)
            if watched[number] in inner[::2]:  # (B, heads · size) -> (B, heads)
                change = change.reshape(len(state), model.config.num_attention_heads, -1).sum(-1)
            totals[number] = totals[number] + change.abs().sum(0)
    model.train(mode)
    heads, units = torch.stack(totals[: len(inner) : 2]), torch.stack(totals[1 : len(inner) : 2])
    if not (heads.any() and units.any()):
        raise ModelError(
            f"{teacher.source}: no head or unit changes the loss on the rows that were tried, so "
            "none can be chosen; give rows with labels, or use --student.start random"
        )
    return Importance(heads, units, totals[-1] if head[1:] else None)


def _with_answers(labels: Tensor, logits: Tensor, problem: Problem) -> Tensor:
    """The labels, with the answers to these logits where a row has none."""
    own = labels.cpu().numpy()
    known = problem.labelled(own)
    if known.all():
        return labels
    answers = problem.answers(logits.cpu().numpy())
    known = known.reshape(-1, *[1] * (own.ndim - 1))
    filled: Tensor = torch.from_numpy(np.where(known, own, answers)).to(labels)
    return filled


def _batches(teacher: Classifier, texts: TextData, max_length: int | None) -> list[Batch]:
    """Padded batches of rows of similar length."""
    tokenizer = teacher.tokenizer
    length = max_length or choose_max_length(texts, tokenizer, teacher.max_length)
    rows: list[Any] = []
    for name in ("train", "unlabeled"):
        if (split := texts.splits.get(name)) is not None and len(rows) < ROWS:
            chosen = take(split, min(ROWS - len(rows), len(split)))
            rows += list(tokenize_split(chosen, tokenizer, length)[0])
    return _padded(rows, teacher)


def _padded(rows: list[Any], teacher: Classifier) -> list[Batch]:
    """Padded batches of token rows of similar length, of so many of the first as memory allows."""
    tokens = np.cumsum([row["length"] for row in rows])
    rows = rows[: max(1, int((tokens <= TOKENS).sum()))]
    rows.sort(key=lambda row: row["length"])
    collate, starts = Collator(teacher.tokenizer), range(0, len(rows), BATCH_SIZE)
    return [collate(rows[start : start + BATCH_SIZE]) for start in starts]


# -- what passes through a model -------------------------------------------------------------------


@dataclass(frozen=True)
class _Seen:
    """What modules were given and returned in one pass."""

    inputs: dict[nn.Module, Tensor]
    outputs: dict[nn.Module, Tensor]


@contextmanager
def _watched(
    inputs: Iterable[nn.Module] = (),
    outputs: Iterable[nn.Module] = (),
    *,
    differentiable: bool = False,
) -> Iterator[_Seen]:
    """Within this context, keeps inputs and outputs of some modules; only of the last pass."""
    seen = _Seen({}, {})

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        if differentiable and not args[0].requires_grad:  # of a frozen teacher
            args[0].requires_grad_()
        seen.inputs[module] = args[0]

    def after(module: nn.Module, _args: Any, output: Any) -> None:
        seen.outputs[module] = output

    with ExitStack() as hooks:
        for module in inputs:
            hooks.callback(module.register_forward_pre_hook(before).remove)
        for module in outputs:
            hooks.callback(module.register_forward_hook(after).remove)
        yield seen


def _head_of(model: PreTrainedModel) -> list[nn.Linear]:
    """The one or two matrices after the blocks, in their order: the last gives the logits."""
    within = f"{blocks_path(model)}."
    found = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and not name.startswith(within)
        and not name.endswith(PROJECT)
    ]
    width = model.config.hidden_size
    if len(found) not in (1, 2) or any(linear.in_features != width for linear in found):
        raise ModelError(
            f"a {type(model).__name__} cannot be narrowed: found {len(found)} matrices after its "
            "blocks, wanted one or two that read hidden states; use --student.start random"
        )
    return found


PROJECT = "embeddings_project"
"""ELECTRA's matrix from the width of the embeddings to that of the blocks."""


# -- the weights -----------------------------------------------------------------------------------


class _Filling:
    """Fills a narrow model with the weights of a whole one, from the embeddings to the logits.

    Args:
        whole: In eval mode.
        narrow: Of the same family and depth, in eval mode; its weights are replaced.
        kept: Which heads and units stay.
        batches: What the matrices are fitted on.
    """

    def __init__(
        self,
        whole: Any,
        narrow: Any,
        kept: _Kept,
        batches: Sequence[Batch],
    ) -> None:
        self.whole, self.narrow, self.kept, self.batches = whole, narrow, kept, batches
        self.names = FAMILIES[whole.config.model_type]
        self.masks = [batch["attention_mask"].bool() for batch in batches]
        self.arguments: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.basis: Tensor  # (D, d), with orthonormal columns

    def run(self) -> tuple[Tensor, float]:
        """Fills the model.

        Returns:
            The matrix from its hidden states to those of the whole one, (D, d), and the share of
            their variance that is reached so.
        """
        states, embedded = self._first_pass()
        narrow_states = self._fill_embeddings(states, embedded)
        pairs: list[tuple[Tensor, Tensor]] = []
        blocks = zip(blocks_of(self.whole), blocks_of(self.narrow), strict=True)
        kept = zip(self.kept.heads, self.kept.units, strict=True)
        for (whole, narrow), (heads, units) in zip(blocks, kept, strict=True):
            states, narrow_states = self._fill_block(
                (whole, narrow), (heads, units), states, narrow_states
            )
            pairs.append((self._real(narrow_states), self._real(states)))
        self._fill_head()
        inputs, targets = (torch.cat(side) for side in zip(*pairs, strict=True))
        widening = self.basis + _correction(inputs, targets - inputs @ self.basis.T)
        missing = (targets - inputs @ widening.T).square().sum()
        return widening, 1 - float(missing / (targets - targets.mean(0)).square().sum())

    def _first_pass(self) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
        """Chooses the basis; returns what the first block reads, and its norm's input and output.

        The basis is that of the largest principal components of the hidden states at all places of
        the stream: what the blocks read, and what their norms give.
        """
        blocks, encoder = blocks_of(self.whole), HFEncoder(self.whole)
        norms = [one for block in blocks for one in self._parts(block, *self.names.norms)]
        norm = self.whole.base_model.embeddings.LayerNorm
        states: list[Tensor] = []
        embedded: list[tuple[Tensor, Tensor]] = []
        moments = [_Moments() for _ in range(1 + len(norms))]

        def keep(_block: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            states.append(args[0])
            self.arguments.append((args[1:], options))

        with ExitStack() as hooks:
            hooks.callback(blocks[0].register_forward_pre_hook(keep, with_kwargs=True).remove)
            for batch, mask in zip(self.batches, self.masks, strict=True):
                with _watched([norm], [norm, *norms]) as seen:
                    encoder(batch)
                embedded.append((seen.inputs[norm][mask], seen.outputs[norm][mask]))
                at_places = [states[-1], *(seen.outputs[one] for one in norms)]
                for moment, state in zip(moments, at_places, strict=True):
                    moment.add(state[mask])
        covariance = torch.stack([moment.covariance() for moment in moments]).sum(0)
        self.basis = _principal(covariance, self.narrow.config.hidden_size).to(states[0])
        given, returned = (torch.cat(side) for side in zip(*embedded, strict=True))
        return states, (given, returned)

    def _fill_embeddings(
        self, states: Sequence[Tensor], embedded: tuple[Tensor, Tensor]
    ) -> list[Tensor]:
        """Fills the embeddings; returns what the first block then reads."""
        whole, narrow = self.whole.base_model, self.narrow.base_model
        if isinstance(own := getattr(narrow, PROJECT, None), nn.Linear):
            narrow.embeddings.load_state_dict(whole.embeddings.state_dict())
            former = getattr(whole, PROJECT, None)
            eye, zeros = torch.eye(len(self.basis)).to(self.basis), torch.zeros(len(self.basis))
            weight, bias = (eye, zeros) if former is None else (former.weight, former.bias)
            _set(own, self.basis.T @ weight, self.basis.T @ bias.to(self.basis))
            return [state @ self.basis for state in states]
        for name, table in whole.embeddings.named_children():
            if isinstance(table, nn.Embedding):
                narrow.embeddings.get_submodule(name).weight.copy_(table.weight @ self.basis)
        norms = whole.embeddings.LayerNorm, narrow.embeddings.LayerNorm
        given, returned = (side @ self.basis for side in embedded)
        return self._batched(self._fit_norm(norms, given, returned))

    def _fill_block(
        self,
        blocks: tuple[Any, Any],
        kept: tuple[Tensor, Tensor],
        states: Sequence[Tensor],
        narrow_states: Sequence[Tensor],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Fills a block, given what both read; returns what both give, the whole one first."""
        whole, narrow = blocks
        heads, units = kept
        names, basis = self.names, self.basis
        read = self._parts(whole, *names.read, names.units)
        norms = self._parts(whole, *names.norms)
        after, seen = self._run(whole, states, norms, [*read, *norms])
        size = self.whole.config.hidden_size // self.whole.config.num_attention_heads
        columns = (heads[:, None] * size + torch.arange(size)).flatten()

        def fit_reading(name: str, inputs: Tensor, rows: Tensor) -> None:
            wide: Any = whole.get_submodule(name)
            cut = wide.weight[rows] @ basis, wide.bias[rows]
            _fit(narrow.get_submodule(name), inputs, seen.outputs[wide][:, rows], *cut)

        def fit_writing(name: str, norm: str, residual: Tensor, columns: Tensor) -> Tensor:
            wide: Any = whole.get_submodule(name)
            own: Any = narrow.get_submodule(name)
            inputs = self._run(narrow, narrow_states, [own])[1].inputs[own]
            norms = whole.get_submodule(norm), narrow.get_submodule(norm)
            targets = seen.inputs[norms[0]] @ basis - residual
            _fit(own, inputs, targets, basis.T @ wide.weight[:, columns], basis.T @ wide.bias)
            returned = seen.outputs[norms[0]] @ basis
            return self._fit_norm(norms, residual + own(inputs), returned)

        stream = self._real(narrow_states)
        for name in names.read:
            fit_reading(name, stream, columns)
        stream = fit_writing(names.attended, names.attention_norm, stream, columns)
        fit_reading(names.units, stream, units)
        stream = fit_writing(names.ffn, names.norm, stream, units)
        return after, self._batched(stream)

    def _fill_head(self) -> None:
        """Fills the one or two matrices after the blocks."""
        heads = list(zip(_head_of(self.whole), _head_of(self.narrow), strict=True))
        targets = self._run_whole(self.whole, [], [wide for wide, _ in heads]).outputs
        pooled = self.kept.pooled
        rows: list[Any] = [slice(None)] if pooled is None else [pooled, slice(None)]
        for number, (wide, own) in enumerate(heads):
            inputs = self._run_whole(self.narrow, [own]).inputs[own]
            weight = wide.weight[rows[number]]
            weight = weight @ self.basis if number == 0 else weight[:, rows[0]]
            _fit(own, inputs, targets[wide][:, rows[number]], weight, wide.bias[rows[number]])

    def _fit_norm(self, norms: tuple[Any, Any], given: Tensor, wanted: Tensor) -> Tensor:
        """Fits scale and bias of the narrow norm, coordinate by coordinate; returns its outputs.

        Both start from the whole norm's scale in the new basis, as far as that is diagonal.
        """
        whole, narrow = norms
        scale = (self.basis.square() * whole.weight[:, None]).sum(0)
        nn.init.ones_(narrow.weight)
        nn.init.zeros_(narrow.bias)
        inputs = narrow(given).double()
        rest = wanted.double() - scale * inputs - whole.bias.double() @ self.basis.double()
        centred = inputs - inputs.mean(0)
        slope = (centred * rest).mean(0) / (centred.square().mean(0) + RIDGE / len(given))
        bias = rest.mean(0) - slope * inputs.mean(0)
        narrow.weight.copy_(scale + slope)
        narrow.bias.copy_(whole.bias.double() @ self.basis.double() + bias)
        outputs: Tensor = narrow(given)
        return outputs

    def _parts(self, block: nn.Module, *names: str) -> list[Any]:
        return [block.get_submodule(name) for name in names]

    def _run(
        self,
        block: nn.Module,
        states: Sequence[Tensor],
        inputs: Sequence[nn.Module],
        outputs: Sequence[nn.Module] = (),
    ) -> tuple[list[Tensor], _Seen]:
        """Runs a block on the states of each batch; returns its outputs, and what modules saw."""
        after: list[Tensor] = []
        every: list[_Seen] = []
        for state, (args, options) in zip(states, self.arguments, strict=True):
            with _watched(inputs, outputs) as seen:
                output = block(state, *args, **options)
            after.append(output[0] if isinstance(output, tuple) else output)
            every.append(seen)
        return after, self._joined(every)

    def _run_whole(
        self,
        model: PreTrainedModel,
        inputs: Sequence[nn.Module],
        outputs: Sequence[nn.Module] = (),
    ) -> _Seen:
        """Runs a model on each batch; returns what modules saw."""
        encoder, every = HFEncoder(model), []
        for batch in self.batches:
            with _watched(inputs, outputs) as seen:
                encoder(batch)
            every.append(seen)
        return self._joined(every)

    def _joined(self, every: Sequence[_Seen]) -> _Seen:
        """What modules saw of the real tokens of all batches; or of the rows, after pooling."""

        def joined(sides: Sequence[Mapping[nn.Module, Tensor]]) -> dict[nn.Module, Tensor]:
            return {module: self._real([side[module] for side in sides]) for module in sides[0]}

        return _Seen(joined([one.inputs for one in every]), joined([one.outputs for one in every]))

    def _real(self, states: Sequence[Tensor]) -> Tensor:
        """The states of the real tokens of all batches; those of rows as they are."""
        pairs = zip(states, self.masks, strict=True)
        return torch.cat([state[mask] if state.ndim == 3 else state for state, mask in pairs])

    def _batched(self, stream: Tensor) -> list[Tensor]:
        """States of real tokens as padded batches; padding is 0, and no token looks at it."""
        parts = torch.split(stream, [int(mask.sum()) for mask in self.masks])
        batched = []
        for mask, part in zip(self.masks, parts, strict=True):
            batched.append(part.new_zeros(*mask.shape, part.shape[-1]))
            batched[-1][mask] = part
        return batched


class _Moments:
    """Sums of which the covariance of states is made."""

    def __init__(self) -> None:
        self.count, self.sums, self.products = 0, torch.zeros(()), torch.zeros(())

    def add(self, states: Tensor) -> None:
        """Add some states."""
        states = states.double()
        self.count += len(states)
        self.sums, self.products = self.sums + states.sum(0), self.products + states.T @ states

    def covariance(self) -> Tensor:
        """Of all that were added."""
        mean = self.sums / self.count
        covariance: Tensor = self.products / self.count - mean[:, None] * mean
        return covariance


def _principal(covariance: Tensor, width: int) -> Tensor:
    """Orthonormal columns that span the largest principal components; the identity if d = D.

    A norm takes the mean over the coordinates out, so one direction is lost: the basis is turned
    so that it is the last of the components.
    """
    if width == len(covariance):
        return torch.eye(width)
    components: Tensor = torch.linalg.eigh(covariance).eigenvectors[:, -width:]
    components = components * components.sum(0).sign().where(components.sum(0) != 0, 1)
    mirror = torch.full((width,), width**-0.5, dtype=components.dtype, device=components.device)
    mirror[0] -= 1  # the reflection that maps the first axis to the diagonal
    if norm := float(mirror.norm()):
        mirror /= norm
        components = components - 2 * (components @ mirror)[:, None] * mirror
    return components


def _fit(
    linear: Any,
    inputs: Tensor,
    targets: Tensor,
    weight: Tensor,
    bias: Tensor,
) -> None:
    """Sets a matrix to the one that maps inputs to targets best, near a given weight and bias."""
    rest = targets - inputs @ weight.T - bias
    mean, rest_mean = inputs.mean(0), rest.mean(0)
    change = _correction(inputs - mean, rest - rest_mean)
    _set(linear, weight + change, bias + rest_mean - change @ mean)


def _correction(inputs: Tensor, rest: Tensor) -> Tensor:
    """The matrix of least squares that maps inputs to what is missing, kept small."""
    fit = LeastSquares()
    fit.add(inputs, rest)
    return fit.solution().to(rest)


def _set(linear: Any, weight: Tensor, bias: Tensor) -> None:
    linear.weight.copy_(weight)
    linear.bias.copy_(bias)
