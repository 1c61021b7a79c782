"""Labels for new texts from a saved model, block by block."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from layermix.atomic import LockedError, check_out_file, whole_file
from layermix.console import Reporter
from layermix.data.columns import columns_for_model
from layermix.data.files import Quoting
from layermix.data.new_texts import Row, WordText, open_texts
from layermix.data.tokenization import Collator, tokenize_texts
from layermix.data.writing import check_rows_file, row_writer
from layermix.errors import ConfigError, RunExistsError
from layermix.models.inference import Floats, finite, logits_of
from layermix.problems.problem import Problem
from layermix.serving.predictor import Predictor, Runtime, open_predictor


def predict(
    model: str,
    file: str = "-",
    out: str = "-",
    *,
    text_columns: tuple[str, ...] | None = None,
    input_format: str | None = None,
    quoting: Quoting = "auto",
    header: bool = True,
    encoding: str = "utf-8",
    force: bool = False,
    runtime: Runtime = "auto",
    batch_size: int = 32,
    calibrated: bool = False,
    reporter: Reporter | None = None,
    problem: Problem | None = None,
) -> None:
    """Label texts, in their order: what `Problem.written`, or `written_by_word`, says.

    Reads, labels and writes the input block by block, so memory does not grow with its length.

    Args:
        model: Run folder, model folder or hub id.
        file: TSV, CSV, JSONL, Parquet, CoNLL or plain text; `-` is standard input.
        out: .jsonl, .csv or .tsv, written completely or not at all; `-` is standard output (JSONL).
        text_columns: If None, those that the model was trained on, or the usual names.
        input_format: Format of the input; by default that of the file's ending.
        quoting: As in `DataConfig.quoting`.
        header: As in `DataConfig.header`.
        encoding: As in `DataConfig.encoding`.
        force: Replace `out` if it exists.
        runtime: What runs the model.
        batch_size: Rows per forward pass.
        calibrated: Write calibrated probabilities (`Predictor.calibrated`).
        reporter: Where progress is shown; quiet if None.
        problem: The kind of its labels, if it is not one of layermix's own.

    Raises:
        UnreadRowsError: If some rows could not be read; they are written without text and label,
            and `out` is complete.
        LayermixError: If model or texts cannot be used, or `out` cannot be written.
    """
    reporter = reporter or Reporter(quiet=True)
    ending = "jsonl" if out == "-" else check_rows_file(out, force)
    plain = (input_format or ("" if file == "-" else Path(file).suffix[1:].lower())) == "txt"
    if text_columns is not None and (plain or (file == "-" and input_format is None)):
        raise ConfigError(
            "--data.text_columns: plain text has no columns; leave it out, or say what the input "
            "is with --format csv (or tsv, jsonl, parquet)"
        )
    predictor = open_predictor(model, runtime, problem)
    if calibrated:
        predictor = predictor.calibrated()
    for note in predictor.notes:
        reporter.say(note)
    if file == "-" and sys.stdin.isatty():
        reporter.say("reading standard input, one text per line; Ctrl-D ends it")
    collate, cut = Collator(predictor.tokenizer), 0
    # Rows that are printed on a terminal show the progress; a bar would disturb them.
    counter = Reporter(quiet=True) if out == "-" and sys.stdout.isatty() else reporter
    with ExitStack() as stack:
        by_word = predictor.problem.by_word
        trained = predictor.text_columns
        with columns_for_model(model, trained, text_columns, by_word=by_word) as columns:
            source = sys.stdin.buffer if file == "-" else file
            texts = stack.enter_context(
                open_texts(
                    source,
                    columns,
                    format=input_format,
                    quoting=quoting,
                    header=header,
                    encoding=encoding,
                    note=reporter.say,
                    by_word=by_word,
                )
            )
        parts = ("text", "text_pair")[: len(texts.columns)]
        written = [
            *parts,
            *_columns(predictor, [], np.zeros((0, len(predictor.label_names)), dtype=np.float32)),
        ]
        # Before the bar, which on a terminal replaces sys.stdout.
        stream = stack.enter_context(_whole(out, force))
        write = row_writer(stream, ending, written)
        total = None if counter.quiet else texts.expected()
        advance = stack.enter_context(counter.counting(total, "predicting"))
        for block in texts:
            rows, cut_here = _labelled(predictor, collate, block, batch_size)
            for row in rows:
                write(row or [None] * len(written))
            stream.flush()
            cut += cut_here
            advance(len(block))
    if cut_note := predictor.cut_note("the input", cut / (texts.rows - texts.unread)):
        reporter.say(cut_note)
    texts.raise_unread("on standard output" if out == "-" else f"in {out}")


def _labelled(
    predictor: Predictor,
    collate: Collator,
    block: Sequence[Row | None],
    batch_size: int,
) -> tuple[list[list[Any] | None], int]:
    """The values to write for each row, None for one without text, and how many were cut."""
    given = [text for text in block if text is not None]
    if not given:
        return [None] * len(block), 0
    words = [row.words for row in given if isinstance(row, WordText)] or None
    texts = [row.text if isinstance(row, WordText) else row for row in given]
    tokens, cut = tokenize_texts(texts, predictor.tokenizer, predictor.max_length, words)
    logits = finite(
        f"{predictor.source}: its", logits_of(predictor.run, tokens, collate, batch_size)
    )
    answers = zip(*_columns(predictor, given, logits).values(), strict=True)
    rows = iter(texts)
    return [None if row is None else [*next(rows), *next(answers)] for row in block], cut


def _columns(
    predictor: Predictor, rows: Sequence[Row], logits: Floats
) -> Mapping[str, Sequence[Any]]:
    """The columns that are written beside the texts."""
    problem, names = predictor.problem, predictor.label_names
    if not problem.by_word:
        return problem.written(logits, names)
    located = [row for row in rows if isinstance(row, WordText)]
    texts, words = [row.text[0] for row in located], [row.words for row in located]
    return problem.written_by_word(logits, names, texts, words)


@contextmanager
def _whole(out: str, force: bool) -> Iterator[IO[str]]:
    """Standard output, or a file that gets its name when it is complete.

    Raises:
        RunExistsError: If another process writes the file, or has written it since the start.
    """
    if out == "-":
        yield sys.stdout
        sys.stdout.flush()  # so that a full disk is reported here, not at exit
        return
    with ExitStack() as stack:
        try:
            file = stack.enter_context(whole_file(Path(out), wait=False))
        except LockedError:
            raise RunExistsError(
                f"--out {out}: another process is writing this file; wait until it has ended, or "
                "choose another name"
            ) from None
        check_out_file(Path(out), force)
        yield stack.enter_context(file.open("w", encoding="utf-8", newline=""))
