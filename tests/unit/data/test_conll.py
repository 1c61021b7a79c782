"""CoNLL files are read sentence by sentence, and every line that is none is told."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from layermix.config import DataConfig
from layermix.data import conll, files
from layermix.data.files import read_file
from layermix.data.new_texts import WordText, open_texts
from layermix.data.tables import Diagnostics, Table
from layermix.data.texts import load_texts
from layermix.errors import DataError, UnreadRowsError

from .conftest import problems_of

Columns = dict[str, list[list[str | None]]]
TWO = {"tokens": [["EU", "said"], ["No"]], "tags": [["B-ORG", "O"], ["O"]]}


def read(folder: Path, content: str | bytes, name: str = "some.conll", **options: Any) -> Table:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    diagnostics = Diagnostics()
    table = read_file(file, DataConfig(**options), diagnostics, tagged=True)
    diagnostics.raise_problems()
    assert table is not None
    return table


def columns_of(table: Table) -> Columns:
    return {name: values() for name, values in table.columns.items()}


@pytest.mark.parametrize("ending", ["conll", "bio", "iob", "iob2", "txt", "BIO"])
@pytest.mark.parametrize(
    "content",
    [
        "EU B-ORG\nsaid O\n\nNo O\n",
        "EU\tB-ORG\nsaid\tO\n\nNo\tO",
        "\ufeffEU B-ORG\r\nsaid  O \r\n\r\n\r\nNo O\r\n",
        "-DOCSTART- -X-\n\nEU B-ORG\nsaid O\n \t\nNo\tO\t\n\n\n",
        "# a comment of more words\nEU B-ORG\nsaid O\n\n# id\tof=a three\nNo O\n",
    ],
)
def test_a_word_and_its_tag_on_each_line(tmp_path: Path, ending: str, content: str) -> None:
    assert columns_of(read(tmp_path, content, f"some.{ending}")) == TWO


def test_columns_between_are_numbered_and_rows_have_the_line_of_their_first_word(
    tmp_path: Path,
) -> None:
    table = read(tmp_path, "-DOCSTART- -X- -X- O\n\n# one\nEU NNP I-NP B-ORG\n\nNo DT I-NP O\n")
    assert columns_of(table) == {
        "tokens": [["EU"], ["No"]],
        "column_2": [["NNP"], ["DT"]],
        "column_3": [["I-NP"], ["I-NP"]],
        "tags": [["B-ORG"], ["O"]],
    }
    assert list(table.numbers) == [4, 6]


def test_words_alone_words_with_spaces_and_words_that_are_comment_marks(tmp_path: Path) -> None:
    assert columns_of(read(tmp_path, "EU\nsaid\n\nNo\n")) == {"tokens": TWO["tokens"]}
    spaced = read(tmp_path, "New York\tB-LOC\n5\u00a0km\tO\n")
    assert columns_of(spaced)["tokens"] == [["New York", "5\u00a0km"]]
    marks = read(tmp_path, "# O\n1 O\n\n# O\n#b O\n")
    assert columns_of(marks)["tokens"] == [["#", "1"], ["#", "#b"]]


UNIVERSAL = """\
# sent_id = 1
# text = Vámonos al mar
1-2\tVámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tVamos\tir\tVERB\t_\tMood=Imp\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\t_\t_\t1\tobj\t_\t_
2.1\tnada\t_\tX\t_\t_\t_\t_\t_\t_
3\t_\t_\tPUNCT\t_\t_\t1\tpunct\t_\t_

"""


def test_universal_dependencies_without_words_that_are_two_or_none(tmp_path: Path) -> None:
    table = read(tmp_path, UNIVERSAL, "some.conllu")
    assert tuple(table.columns) == conll.UNIVERSAL
    columns = columns_of(table)
    assert columns["tokens"] == [["Vamos", "nos", "_"]]
    assert columns["upos"] == [["VERB", "PRON", "PUNCT"]]
    assert columns["feats"] == [["Mood=Imp", None, None]]
    assert list(table.numbers) == [3]


@pytest.mark.parametrize(
    ("name", "content", "problems"),
    [
        (
            "a.conll",
            "EU B-ORG\nsaid\n\nYes\nthe end O\nNo O\n\nNo O\nNo O\nNo O\n",
            [
                ":2: too few fields: 1, wanted 2, as the first word has",
                ":4: too few fields: 1, wanted 2, as the first word has",
                ":5: too many fields: 3, wanted 2, as the first word has",
            ],
        ),
        ("a.conll", "EU O\n# no comment here\nNo O\n", [":2: too many fields: 4, wanted 2, as"]),
        (
            "a.conllu",
            "1\tEU\t_\t_\t_\t_\t_\t_\t_\t_\n2 said\n\n" + UNIVERSAL,
            [":2: too few fields: 2, wanted 10"],
        ),
        (
            "a.conllu",
            "EU O\nNo O\n",
            [": most lines have not 10 fields; wanted CoNLL-U, with a tab between fields"],
        ),
        (
            "a.txt",
            "A good film.\nToo long for me.\n",
            [
                ": most lines have another number of fields than the first, as plain text has; "
                "wanted CoNLL: on each line a word and its tags, an empty line after each sentence"
            ],
        ),
        ("a.conll", b"caf\xe9 O\nin O\n", [":1: invalid UTF-8 (byte 0xe9 at column 4); the bytes"]),
        ("a.conll", b"-DOCSTART- O\n\n", [": there are no rows"]),
        ("a.conll", b"\n\n", [": the file is empty"]),
    ],
)
def test_faults_of_a_file(
    tmp_path: Path, name: str, content: str | bytes, problems: Sequence[str]
) -> None:
    found = problems_of(lambda: read(tmp_path, content, name))
    assert len(found) == len(problems)
    for one, wanted in zip(found, problems, strict=True):
        assert one.startswith(f"{tmp_path / name}{wanted}")


def test_a_file_without_empty_lines_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conll, "LONGEST", 5)
    (problem,) = problems_of(lambda: read(tmp_path, "a O\n\n" + "EU O\n" * 9))
    assert problem == (
        f"{tmp_path}/some.conll:3: no empty line within 5 words; wanted one after each sentence"
    )


def test_another_encoding_and_wrong_bytes_in_a_comment(tmp_path: Path) -> None:
    table = read(tmp_path, "café O\n".encode("cp1252"), encoding="cp1252")
    assert columns_of(table)["tokens"] == [["café"]]
    assert columns_of(read(tmp_path, b"EU O\n\n# caf\xe9 one two\nNo O\n"))["tokens"] == [
        ["EU"],
        ["No"],
    ]


def test_sentences_to_predict_come_in_blocks_from_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BLOCK", 2)
    data = b"EU O\nsaid O\n\n# \xff \xff\nNo O\n\n1\nYes O\n\nNo\xff O\n\nwell O\n"
    with open_texts(io.BytesIO(data), format="conll", by_word=True) as texts:
        assert texts.columns == ("tokens",)
        assert texts.expected() is None
        rows = [row for block in texts for row in block]
        with pytest.raises(UnreadRowsError) as caught:
            texts.raise_unread("nowhere")
    assert rows == [
        WordText(("EU said",), [(0, 2), (3, 7)]),
        WordText(("No",), [(0, 2)]),
        None,
        None,
        WordText(("well",), [(0, 4)]),
    ]
    assert [problem.split(" (")[0] for problem in caught.value.problems] == [
        "standard input:7: too few fields: 1, wanted 2, as the first word has",
        "standard input:10: invalid UTF-8",
    ]


# -- folders and files -----------------------------------------------------------------------------

TRAIN = "EU B-ORG\nsaid O\n\nAnn B-PER\nSmith I-PER\nslept O\n"


def written(folder: Path, **contents: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name.replace("_", ".")).write_text(content)
    return folder


def test_a_folder_of_text_files_as_conll2003_is_given(tmp_path: Path) -> None:
    four = TRAIN.replace(" ", " X Y ")
    folder = written(tmp_path / "d", train_txt=four, valid_txt=four, test_txt=four)
    texts = load_texts(DataConfig(path=str(folder), problem="entities"))
    assert {name: split["text"][:] for name, split in texts.splits.items()} == {
        name: ["EU said", "Ann Smith slept"] for name in ("train", "validation", "test")
    }
    assert texts.text_columns == ("tokens",)
    assert texts.task is None
    named = folder.rename(tmp_path / "conll2003")
    known = load_texts(DataConfig(path=str(named)))
    assert (known.task, known.problem.name) == ("conll2003", "entities")
    assert known.fingerprint == texts.fingerprint


@pytest.mark.parametrize("ending", ["txt", "conll", "iob2"])
def test_shards_and_folders_of_a_split(tmp_path: Path, ending: str) -> None:
    one, two = TRAIN.split("\n\n")
    folder = written(tmp_path / "d")
    written(folder / "train", **{f"a_{ending}": one, f"b_{ending}": two})
    written(folder / "dev", **{f"a_{ending}": TRAIN})
    texts = load_texts(DataConfig(path=str(folder), problem="entities"))
    assert texts.splits["train"]["text"][:] == ["EU said", "Ann Smith slept"]
    shards = written(tmp_path / "s", **{f"dev_{ending}": TRAIN})
    for number, part in enumerate((one, two)):
        (shards / f"train-{number}-of-2.{ending}").write_text(part)
    assert load_texts(DataConfig(path=str(shards), problem="entities")).fingerprint == (
        texts.fingerprint
    )


def test_text_without_labels_stays_text(tmp_path: Path) -> None:
    folder = written(tmp_path / "d", train_txt=TRAIN, dev_txt=TRAIN, unlabeled_txt="It's good.\n")
    more = tmp_path / "more.txt"
    more.write_text("New York, now\n")
    config = DataConfig(path=str(folder), problem="entities")
    for given, text, words in (
        (None, "It's good.", [0, 4, 5, 10]),  # cut at spaces, as the training rows are
        (str(more), "New York, now", [0, 3, 4, 9, 10, 13]),
    ):
        texts = load_texts(config.model_copy(update={"unlabeled": given}))
        (row,) = texts.splits["unlabeled"]
        assert (row["text"], row["words"]) == (text, words)
        assert row["label"] == [-100] * (len(words) // 2)


def test_for_other_labels_a_text_file_has_none(tmp_path: Path) -> None:
    folder = written(tmp_path / "d", train_txt=TRAIN, dev_txt=TRAIN)
    with pytest.raises(DataError, match="plain text has no labels, so it cannot be train data"):
        load_texts(DataConfig(path=str(folder)))
    written(folder, train_conll=TRAIN)
    (folder / "train.txt").unlink()
    (folder / "dev.txt").rename(folder / "dev.conll")
    problems = problems_of(lambda: load_texts(DataConfig(path=str(folder))))
    assert problems[0] == (
        f"{folder}/train.conll:1: no label column found; the columns are 'tokens', 'tags'; name it "
        "with --data.label_column NAME (if 'tags' has labels of words, give --data.problem "
        "entities, or tags)"
    )


def test_words_without_tags_cannot_be_learned_from(tmp_path: Path) -> None:
    folder = written(tmp_path / "d", train_conll="EU\nsaid\n", dev_conll="EU\n")
    (problem,) = problems_of(lambda: load_texts(DataConfig(path=str(folder), problem="tags")))
    assert problem == (
        f"{folder}/train.conll:1: no label column found; the columns are 'tokens'; name it with "
        "--data.label_column NAME"
    )
