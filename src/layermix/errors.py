"""The errors and notes a user can meet: each says what was found, wanted, and what to do."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Note:
    """A message for the user: programs test its code, people read its text.

    Attributes:
        code: Lower-case words joined by hyphens, such as `untracked-holdout`; empty where a record
            of an older version has the text alone.
        text: One or more plain sentences; may be reworded at any time.

    Examples:
        >>> note = Note("rows-dropped", "3 rows without text were dropped")
        >>> note.code, str(note)
        ('rows-dropped', '3 rows without text were dropped')
    """

    code: str
    text: str

    def __str__(self) -> str:
        return self.text


def is_panic(error: BaseException) -> bool:
    """Whether a library written in Rust, such as tokenizers, has crashed.

    Its exception is no `Exception` and has no module to import it from.
    """
    return type(error).__name__ == "PanicException"


class LayermixError(Exception):
    """Base of all errors that are the user's to mend; shown without a traceback."""

    exit_code = 2

    def __reduce__(self) -> tuple[Any, ...]:
        """Let pickle remake the error as it is, whatever arguments its class takes."""
        return _as_it_was, (type(self), self.args, self.__dict__)


def _as_it_was(
    kind: type[LayermixError], arguments: tuple[Any, ...], state: dict[str, Any]
) -> LayermixError:
    error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(state)
    return error


class ConfigError(LayermixError):
    """The configuration does not hold together."""


class DataError(LayermixError):
    """The data cannot be used as they are.

    Args:
        problems: One line per problem, in the order found, each with its file and line number.
        shown: How many of them the message lists.
        hint: What may help with all of them; the last line of the message.
        codes: Kinds of problems among them by which a caller decides what to do.
    """

    def __init__(
        self,
        problems: Sequence[str],
        shown: int = 20,
        hint: str = "",
        codes: Collection[str] = (),
    ) -> None:
        self.problems = tuple(problems)
        self.codes = frozenset(codes)
        total = len(self.problems)
        lines = [f"{total} problem{'s' * (total != 1)} in the data:"]
        lines += [f"  {problem}" for problem in self.problems[:shown]]
        if total > shown:
            lines.append(f"  … and {total - shown} more")
        if hint:
            lines.append(hint)
        super().__init__("\n".join(lines))


class UnreadRowsError(LayermixError):
    """Some rows could not be read; all others were labelled, and the output is complete.

    Args:
        problems: The first problems, one line each, with the file and the line number.
        total: How many problems there were.
        unread: How many rows could not be read.
        rows: How many rows there were.
        place: Where the output is.
    """

    exit_code = 1

    def __init__(
        self, problems: Sequence[str], total: int, unread: int, rows: int, place: str
    ) -> None:
        self.problems = tuple(problems)
        self.unread = unread
        self.rows = rows
        lines = [f"{unread:,} of {rows:,} rows could not be read:"]
        lines += [f"  {problem}" for problem in self.problems]
        if total > len(self.problems):
            lines.append(f"  … and {total - len(self.problems):,} more")
        lines.append(
            f"All other rows were labelled. The output is {place}, in the order of the input; the "
            "rows that could not be read have no text and no label there."
        )
        super().__init__("\n".join(lines))


class ModelError(LayermixError):
    """A model cannot be loaded, or teacher and student do not fit together."""


class WeakTeacherError(ModelError):
    """The teacher knows no more about the task than always answering one class."""


class CacheError(LayermixError):
    """Teacher signals cannot be stored, or not as they were wanted."""


class NonFiniteLossError(LayermixError):
    """The loss, the gradient or a weight became NaN or infinite; nothing of it was saved."""

    exit_code = 1


class RunExistsError(LayermixError):
    """The output folder already holds something, which layermix does not overwrite."""


class ResumeError(LayermixError):
    """An unfinished run cannot be resumed as it was."""


class ExportError(LayermixError):
    """An exported model does not answer as it should, so it is not handed out."""

    exit_code = 1


class PushError(LayermixError):
    """The hub refused an upload, or could not be reached."""

    exit_code = 1


class ReportError(LayermixError):
    """A folder holds nothing that a report could be made of."""


class StudyError(LayermixError):
    """Some cells of a study failed; the others are finished."""

    exit_code = 1
