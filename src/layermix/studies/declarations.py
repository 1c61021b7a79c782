"""What a study declares before its runs: which comparisons get a verdict, on which cells."""

from datetime import UTC, datetime

from layermix.atomic import write_text
from layermix.errors import StudyError
from layermix.runs.reader import reason_of
from layermix.runs.schema import FORMAT, read_text
from layermix.studies.folder import Study
from layermix.studies.plan import Plan
from layermix.studies.schema import (
    Declaration,
    DeclarationsRecord,
    Judged,
    JudgedPair,
    PlanRecord,
)


def declare(plan: Plan, study: Study) -> None:
    """Write the plan, and a declaration if none is there or it has changed.

    A declaration says what is judged: the pairs, the cells of both arms (so their seeds and
    settings), and the scores that are compared. Earlier ones are kept.

    Raises:
        StudyError: The file of declarations is damaged.
    """
    study.folder.mkdir(parents=True, exist_ok=True)
    write_text(study.plan_file, PlanRecord.of(plan).to_json())
    judged = Judged(
        report=plan.study.report,
        split=plan.study.split,
        pairs=tuple(
            JudgedPair(
                task=task,
                arms=(first, second),
                cells=tuple(
                    cell.name for arm in (first, second) for cell in plan.table[task][arm].values()
                ),
            )
            for task, first, second in plan.judged
        ),
    )
    earlier = read_declarations(study)
    if earlier and earlier[-1].judged == judged:
        return
    known = set(plan.runs)
    if earlier:
        known.update(name for pair in earlier[-1].judged.pairs for name in pair.cells)
    declaration = Declaration(
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        finished_cells=sum(map(study.has, known)),
        judged=judged,
    )
    record = DeclarationsRecord(format=FORMAT, declarations=(*earlier, declaration))
    write_text(study.declared_file, record.to_json())


def read_declarations(study: Study) -> tuple[Declaration, ...]:
    """Every declaration of a study, the oldest first; none if there is no file.

    Raises:
        StudyError: The file is damaged.
    """
    file = study.declared_file
    if not file.is_file():
        return ()
    try:
        return DeclarationsRecord.from_json(read_text(file)).declarations
    except ValueError as error:
        raise StudyError(
            f"{file} is damaged ({reason_of(error)}); it records what was declared before the "
            "runs, so restore a copy, or remove it to declare the comparisons again"
        ) from None
