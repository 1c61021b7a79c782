from pathlib import Path

import pytest

from layermix.config import DistillConfig, to_yaml
from layermix.errors import ConfigError, RunExistsError
from layermix.runs.layout import CONFIG, LOCK, RESULT, RunFolder, is_busy

FIRST = to_yaml(DistillConfig())
OTHER = to_yaml(DistillConfig.model_validate({"seed": 1, "mix": {"teacher_layers": [0, 1]}}))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "one"


@pytest.fixture
def unfinished(out: Path) -> Path:
    """The working folder of an unfinished run with one checkpoint."""
    run = RunFolder(out, FIRST)
    run.begin()
    (run.checkpoints / "checkpoint-1").mkdir(parents=True)
    return run.work


def test_a_run_from_begin_to_finish(out: Path) -> None:
    run = RunFolder(out, FIRST)
    assert not out.parent.exists()  # a run that never begins leaves nothing
    run.begin()
    assert run.work == out.with_name("one.partial")
    assert (run.work / CONFIG).read_text(encoding="utf-8") == FIRST
    run.checkpoints.mkdir()
    run.write(RESULT, '{"α": [1]}\n')
    run.finish()
    assert sorted(file.name for file in out.iterdir()) == [CONFIG, RESULT]
    assert (out / RESULT).read_text(encoding="utf-8") == '{"α": [1]}\n'
    assert not run.work.exists()


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"restart": True}])
def test_what_is_there_is_never_written_over(out: Path, how: dict[str, bool]) -> None:
    out.mkdir(parents=True)
    (out / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(
        RunExistsError, match="one already exists, and layermix does not overwrite it"
    ):
        RunFolder(out, FIRST, **how)
    (out / RESULT).write_text("{}", encoding="utf-8")
    with pytest.raises(RunExistsError, match="one already holds a finished run, and layermix does"):
        RunFolder(out, FIRST, **how)
    assert (out / "thesis.txt").read_text(encoding="utf-8") == "mine"


def test_what_appears_meanwhile_is_not_written_over_either(out: Path) -> None:
    run = RunFolder(out, FIRST)
    run.begin()
    out.write_text("mine", encoding="utf-8")
    with pytest.raises(RunExistsError, match="one already exists"):
        run.finish()
    assert out.read_text(encoding="utf-8") == "mine"
    assert (run.work / CONFIG).is_file()


def test_an_unfinished_run_needs_a_word(out: Path, unfinished: Path) -> None:
    with pytest.raises(RunExistsError) as caught:
        RunFolder(out, FIRST)
    assert str(caught.value) == (
        f"The folder {unfinished} holds an unfinished run. Give --resume to continue it, or "
        "--restart to discard it and start over."
    )
    with pytest.raises(ConfigError, match="--resume and --restart contradict each other"):
        RunFolder(out, FIRST, resume=True, restart=True)


def test_resume_goes_on(out: Path, unfinished: Path) -> None:
    RunFolder(out, FIRST, resume=True).begin()
    assert (unfinished / "checkpoints" / "checkpoint-1").is_dir()


def test_resume_with_nothing_there_starts(out: Path) -> None:
    run = RunFolder(out, FIRST, resume=True)
    run.begin()
    assert (run.work / CONFIG).is_file()


def test_resume_with_another_config_lists_the_differences(out: Path, unfinished: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        RunFolder(out, OTHER, resume=True)
    assert str(caught.value) == (
        f"{unfinished}: the unfinished run has another config, so it cannot be resumed: "
        "mix.teacher_layers: was None, is [0, 1]; seed: was 0, is 1. Give the same config, or "
        "--restart to start over"
    )


@pytest.mark.parametrize(
    "damage", [b"\xbc\xff", b"seed: [", b"seed: 0\n- 1", b"- seed", b"[" * 5000]
)
def test_a_damaged_config_cannot_be_resumed(out: Path, unfinished: Path, damage: bytes) -> None:
    (unfinished / CONFIG).write_bytes(damage)
    with pytest.raises(ConfigError, match="cannot be resumed"):
        RunFolder(out, FIRST, resume=True)
    RunFolder(out, FIRST, restart=True)


def test_restart_starts_over_but_not_before_the_run_begins(out: Path, unfinished: Path) -> None:
    run = RunFolder(out, OTHER, restart=True)
    assert (unfinished / "checkpoints").is_dir()
    run.begin()
    assert {file.name for file in unfinished.iterdir()} == {CONFIG, LOCK}
    assert (unfinished / CONFIG).read_text(encoding="utf-8") == OTHER


def test_a_restart_that_was_killed_can_be_repeated_and_leaves_no_torn_checkpoint(
    out: Path, unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    run = RunFolder(out, OTHER, restart=True)
    with monkeypatch.context() as patch:
        patch.setattr("layermix.runs.layout.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            run.begin()
    run.leave()
    assert not (unfinished / "checkpoints").exists()
    again = RunFolder(out, OTHER, restart=True)
    again.begin()
    assert {file.name for file in unfinished.iterdir()} == {CONFIG, LOCK}


def test_the_lock_that_a_kill_left_in_a_finished_run_is_removed(out: Path) -> None:
    run = RunFolder(out, FIRST)
    run.begin()
    run.finish()
    (out / LOCK).touch()
    with pytest.raises(RunExistsError, match="already exists"):
        RunFolder(out, FIRST, resume=True)
    assert [file.name for file in out.iterdir()] == [CONFIG]


@pytest.mark.parametrize("how", [{"resume": True}, {"restart": True}])
def test_two_processes_do_not_work_on_one_run(out: Path, how: dict[str, bool]) -> None:
    first, second = RunFolder(out, FIRST), RunFolder(out, FIRST, **how)
    assert not is_busy(out)
    first.begin()
    assert is_busy(out)
    with pytest.raises(RunExistsError, match="Another process is working on this run"):
        second.begin()  # looked before the other one had begun
    with pytest.raises(RunExistsError, match="Another process is working on this run"):
        RunFolder(out, FIRST, **how)
    first.leave()
    assert not is_busy(out)
    last = RunFolder(out, FIRST, **how)
    last.begin()
    last.finish()
    assert not is_busy(out)
    assert [file.name for file in out.iterdir()] == [CONFIG]


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"restart": True}])
def test_a_working_folder_that_is_no_run_is_left_alone(out: Path, how: dict[str, bool]) -> None:
    work = out.with_name("one.partial")
    work.mkdir(parents=True)
    RunFolder(out, FIRST, **how)  # an empty one may be used
    (work / f".{CONFIG}.writing").write_text("", encoding="utf-8")
    RunFolder(out, FIRST, **how)  # killed as soon as it began
    (work / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RunExistsError, match="holds something other than an unfinished run"):
        RunFolder(out, FIRST, **how)
    assert (work / "thesis.txt").is_file()
