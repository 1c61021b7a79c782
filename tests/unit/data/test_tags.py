"""Labels of words are read as meant, in every shape, or each fault is told."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from layermix.config import DataConfig
from layermix.data.splits import hold_out, labels_of, take, texts_hash
from layermix.data.texts import TextData, from_splits, load_texts
from layermix.problems.kinds import PROBLEMS

from .conftest import Row, problems_of, write_jsonl

TOKENS = [["Ann", "Lee", "saw", "New", "York"], ["No", "one"], ["Oslo"]]
TAGS = [["B-PER", "I-PER", "O", "B-LOC", "I-LOC"], ["O", "O"], ["B-LOC"]]
NAMES = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
LABELS = [[3, 4, 0, 1, 2], [0, 0], [1]]
TEXTS = [" ".join(tokens) for tokens in TOKENS]
WORDS = [[0, 3, 4, 7, 8, 11, 12, 15, 16, 20], [0, 2, 3, 6], [0, 4]]
SPANS: list[list[dict[str, Any]]] = [
    [{"start": 12, "end": 20, "label": "LOC"}, {"start": 0, "end": 7, "label": "PER"}],
    [],
    [{"start": 0, "end": 4, "label": "LOC"}],
]


def rows(**columns: Sequence[Any]) -> list[Row]:
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def read(train: Any, kind: str = "entities", **options: Any) -> TextData:
    splits = {"train": train, "validation": train, **options.pop("splits", {})}
    return from_splits(splits, problem=PROBLEMS[kind], **options)


def labels(texts: TextData, split: str = "train") -> list[list[int]]:
    found: list[list[int]] = texts.splits[split]["label"][:]
    return found


def told(texts: TextData, code: str) -> list[str]:
    return [note.text for note in texts.notes if note.code == code]


def check(texts: TextData) -> None:
    """The texts, words and labels are those above."""
    for split in ("train", "validation"):
        assert texts.splits[split]["text"][:] == TEXTS
        assert texts.splits[split]["words"][:] == WORDS
        assert labels(texts, split) == LABELS
    assert texts.label_names == NAMES


# -- every shape of the same rows ------------------------------------------------------------------

OFFSETS = [
    [{"start_offset": s["start"], "end_offset": s["end"], "entity_group": s["label"]} for s in one]
    for one in SPANS
]
LISTS = [[[span["start"], span["end"], span["label"]] for span in one] for one in SPANS]
COLUMNS = [{key: [span[key] for span in one] for key in ("start", "end", "label")} for one in SPANS]
MORE = [[{**span, "text": "x", "id": 5, "probability": 0.9} for span in one] for one in SPANS]


@pytest.mark.parametrize(
    "train",
    [
        rows(tokens=TOKENS, ner_tags=TAGS),
        rows(words=TOKENS, label=TAGS, id=range(3)),
        rows(tokens=map(np.array, TOKENS), tags=map(np.array, TAGS)),
        rows(tokens=map(str, TOKENS), tags=map(str, TAGS)),
        rows(tokens=map(json.dumps, TOKENS), tags=map(json.dumps, TAGS)),
        rows(text=TEXTS, tags=map(" ".join, TAGS)),
        rows(tokens=TEXTS, ner=TAGS, pos_tags=TAGS, chunk_tags=TAGS),
        rows(text=["other"] * 3, tokens=TOKENS, tags=TAGS),
        rows(text=TEXTS, entities=SPANS),
        rows(text=TEXTS, tokens=[["x"]] * 3, entities=SPANS),
        rows(text=TEXTS, spans=OFFSETS),
        rows(text=TEXTS, label=LISTS),
        rows(text=TEXTS, label=map(json.dumps, LISTS)),
        rows(text=TEXTS, label=map(str, SPANS)),
        rows(text=TEXTS, entities=COLUMNS),
        rows(sentence=TEXTS, entities=MORE),
        rows(text=TEXTS, spans=SPANS, ner=SPANS, label=LISTS),
    ],
)
def test_every_shape_gives_the_same_words_and_labels(train: list[Row]) -> None:
    check(read(train))


@pytest.mark.parametrize(
    "tags",
    [
        [["I-PER", "I-PER", "O", "I-LOC", "I-LOC"], ["O", "O"], ["I-LOC"]],
        [["B-PER", "E-PER", "O", "B-LOC", "E-LOC"], ["O", "O"], ["S-LOC"]],
        [["B-PER", "L-PER", "O", "B-LOC", "L-LOC"], ["O", "O"], ["U-LOC"]],
        [["PER", "PER", "O", "LOC", "LOC"], ["O", "O"], ["LOC"]],
    ],
)
def test_every_scheme_gives_the_same_labels(tags: list[list[str]]) -> None:
    check(read(rows(tokens=TOKENS, tags=tags)))


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "parquet", "conll", "txt"])
def test_every_format_gives_the_same_data(tmp_path: Path, ending: str) -> None:
    for split in ("train", "dev"):
        file = tmp_path / f"{split}.{ending}"
        train = rows(tokens=TOKENS, ner_tags=TAGS)
        if ending == "jsonl":
            write_jsonl(file, train)
        elif ending == "parquet":
            Dataset.from_list(train).to_parquet(file)
        elif ending in ("csv", "tsv"):
            with file.open("w", newline="") as out:
                writer = csv.writer(out, delimiter="," if ending == "csv" else "\t")
                writer.writerow(["tokens", "ner_tags"])
                writer.writerows(
                    [json.dumps(one), " ".join(two)] for one, two in zip(TOKENS, TAGS, strict=True)
                )
        else:
            pairs = (zip(one, two, strict=True) for one, two in zip(TOKENS, TAGS, strict=True))
            file.write_text("\n\n".join("\n".join(map(" ".join, pair)) for pair in pairs))
    texts = load_texts(DataConfig(path=str(tmp_path), problem="entities"))
    check(texts)
    assert texts.fingerprint == read(rows(text=TEXTS, entities=SPANS)).fingerprint


OF_CLASSES = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"]
AS_CLASSES = [[1, 2, 0, 5, 6], [0, 0], [5]]


@pytest.mark.parametrize(("kind", "names"), [("entities", OF_CLASSES), ("tags", OF_CLASSES)])
def test_a_saved_data_set_with_sequences_of_classes(
    tmp_path: Path, kind: str, names: list[str]
) -> None:
    features = Features(
        {"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=OF_CLASSES))}
    )
    split = Dataset.from_list(rows(tokens=TOKENS, ner_tags=AS_CLASSES), features=features)
    hidden = split.remove_columns("ner_tags")
    DatasetDict(train=split, validation=split, test=hidden).save_to_disk(tmp_path / "d")
    texts = load_texts(DataConfig(path=str(tmp_path / "d"), problem=kind))
    assert texts.label_names == tuple(names)
    assert labels(texts) == AS_CLASSES
    assert labels(texts, "test") == [[-100] * 5, [-100] * 2, [-100]]
    assert texts.splits["test"]["words"][:] == WORDS
    assert told(texts, "rows-without-label") == ["test: 3 of 3 rows have no label (-1)"]


def test_classes_of_spans_in_a_data_set() -> None:
    span = {"start": Value("int32"), "end": Value("int32"), "label": ClassLabel(names=["PER", "X"])}
    features = Features({"text": Value("string"), "entities": List(span)})
    of = [{"text": "Ann left", "entities": [{"start": 0, "end": 3, "label": 0}]}]
    texts = read(Dataset.from_list(of, features=features))
    assert texts.label_names == ("O", "B-PER", "I-PER")


def test_words_of_spans_are_cut_by_rule() -> None:
    texts = read(
        [
            {"text": " Ann's U.S.-based 東京 team", "spans": [[1, 4, "PER"], [7, 11, "LOC"]]},
            {"text": "x", "spans": []},
        ]
    )
    row = texts.splits["train"][0]
    places = zip(row["words"][::2], row["words"][1::2], strict=True)
    words = [row["text"][begin:end] for begin, end in places]
    assert words == ["Ann", "'", "s", "U", ".", "S", ".", "-", "based", "東", "京", "team"]
    assert row["label"] == [3, 0, 0, 1, 2, 2, 2, 0, 0, 0, 0, 0]


def test_spans_inside_words_count_for_whole_words_and_spaces_at_ends_for_nothing() -> None:
    of = [
        {"text": "An unbelievable story", "spans": [[5, 15, "X"]]},
        {"text": "An unbelievable story", "spans": [[2, 16, "X"], [16, 19, "Y"]]},
    ]
    texts = read(of)
    assert labels(texts) == [[0, 1, 0], [0, 1, 3]]
    assert told(texts, "spans-inside-words") == [
        f"{split}: 2 of 3 spans begin or end inside a word; they count for whole words"
        for split in ("train", "validation")
    ]


def test_notes_on_schemes() -> None:
    iob1 = [["I-A", "I-A", "B-A"], ["O", "I-B", "I-A"]]
    texts = read(rows(tokens=[["a", "b", "c"]] * 2, tags=iob1))
    assert labels(texts) == [[1, 2, 1], [0, 3, 1]]
    assert told(texts, "entities-begin-with-i")[0] == (
        "train: 3 entities begin with I-, E- or L-, which is read as B-"
    )
    plain = read(rows(tokens=[["a", "b", "c"]], tags=[["A", "A", "O"]]))
    assert labels(plain) == [[1, 2, 0]]
    assert told(plain, "entities-without-begin") == [
        "the tags have no B- and I-: words beside each other with the same type are read as one "
        "entity"
    ]
    assert not told(plain, "entities-begin-with-i")
    without_types = read(rows(tokens=[["a", "b", "c"]], tags=[["B", "I", "O"]]))
    assert without_types.label_names == ("O", "B-ENTITY", "I-ENTITY")
    assert told(read(rows(tokens=TOKENS, tags=TAGS)), "label-counts") == [
        "labels in train: LOC (2 entities), PER (1 entities); 8 words"
    ]


def test_words_without_a_label_stand_between_the_parts_of_an_entity() -> None:
    of = [["B-A", -100, "I-A", None, "O"]]
    assert labels(read(rows(tokens=[list("abcde")], tags=of))) == [[1, -100, 2, -100, 0]]


# -- tags of any kind ------------------------------------------------------------------------------


def test_tags_are_taken_as_they_are_sorted_by_name() -> None:
    tags = [["NOUN", "NOUN", "VERB", "ADJ", "."], ["NUM", "NUM"], ["NOUN"]]
    texts = read(rows(tokens=TOKENS, upos=tags, xpos=tags), "tags")
    assert texts.label_names == (".", "ADJ", "NOUN", "NUM", "VERB")
    assert labels(texts) == [[2, 2, 4, 1, 0], [3, 3], [2]]
    assert told(texts, "label-counts") == [
        "labels in train: . (1 words), ADJ (1 words), NOUN (3 words), NUM (2 words), VERB (1 words)"
    ]
    numbers = read(rows(tokens=[["a", "b", "c"]], tags=[[10, 9, 10]]), "tags")
    assert numbers.label_names == ("9", "10")


def test_tags_of_universal_dependencies(tmp_path: Path) -> None:
    line = "{}\t{}\t_\t{}\t_\t_\t_\t_\t_\t_\n"
    parts = [("1-2", "del", "_"), ("1", "de", "ADP"), ("2", "el", "DET"), ("3", "x", "_")]
    (tmp_path / "train.conllu").write_text("".join(line.format(*part) for part in parts))
    (tmp_path / "dev.conllu").write_text(line.format("1", "de", "ADP"))
    texts = load_texts(DataConfig(path=str(tmp_path), problem="tags"))
    assert texts.splits["train"]["text"][:] == ["de el x"]
    assert labels(texts) == [[0, 1, -100]]


# -- which names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "options", "names"),
    [
        (TAGS, {"label_names": ["PER", "LOC", "X"]}, ["PER", "LOC", "X"]),
        (TAGS, {"label_names": OF_CLASSES}, ["PER", "ORG", "LOC"]),
        (AS_CLASSES, {"label_names": OF_CLASSES}, ["PER", "ORG", "LOC"]),
        (TAGS, {"label_names": ["PER=person", "LOC=place"]}, ["person", "place"]),
    ],
)
def test_names_that_the_user_gives(
    tags: list[Any], options: dict[str, Any], names: list[str]
) -> None:
    texts = read(rows(tokens=TOKENS, tags=tags), **options)
    assert texts.label_names == ("O", *(f"{one}-{name}" for name in names for one in "BI"))
    first = [texts.label_names[place] for place in labels(texts)[0]]
    person, place = names[0], next(name for name in names if name[0] in "Lp" and name != "person")
    assert first == [f"B-{person}", f"I-{person}", "O", f"B-{place}", f"I-{place}"]


@pytest.mark.parametrize(
    ("kind", "model", "names"),
    [
        ("entities", ("O", "B-PER", "I-PER", "B-LOC", "I-LOC"), OF_CLASSES[:3] + OF_CLASSES[5:]),
        (
            "entities",
            ("B-per", "I-per", "B-loc", "I-loc", "O"),
            ["O", "B-per", "I-per", "B-loc", "I-loc"],
        ),
        ("entities", ("LABEL_0", "LABEL_1"), NAMES),
        ("entities", ("O", "B-PER", "I-PER"), NAMES),
        ("tags", ("I-LOC", "O", "B-PER", "I-PER", "B-LOC", "X"), None),
        ("tags", ("O", "X"), sorted(NAMES)),
    ],
)
def test_names_of_a_model_that_is_scored_win_if_they_fit(
    tmp_path: Path, kind: str, model: tuple[str, ...], names: Sequence[str] | None
) -> None:
    for split in ("train", "dev"):
        write_jsonl(tmp_path / f"{split}.jsonl", rows(tokens=TOKENS, tags=TAGS))
    texts = load_texts(DataConfig(path=str(tmp_path)), model, problem=PROBLEMS[kind])
    assert texts.label_names == tuple(names or model)
    read_back = [[texts.label_names[place].upper() for place in row] for row in labels(texts)]
    assert read_back == TAGS


def test_a_model_is_scored_on_rows_without_entities(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows(text=TEXTS, entities=[[]] * 3))
    write_jsonl(tmp_path / "dev.jsonl", rows(text=TEXTS, entities=[[]] * 3))
    texts = load_texts(DataConfig(path=str(tmp_path)), NAMES, problem=PROBLEMS["entities"])
    assert texts.label_names == NAMES
    assert labels(texts) == [[0] * 5, [0] * 2, [0]]


# -- rows without labels ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "test",
    [
        rows(tokens=TOKENS),
        rows(tokens=TOKENS, tags=[[-1] * 5, [-1] * 2, [-1]]),
        rows(tokens=TOKENS, tags=[None] * 3),
        rows(tokens=TOKENS, tags=[[]] * 3),
        rows(tokens=TOKENS, tags=["-1 -1", "", -1]),
    ],
)
def test_hidden_labels_of_a_test_split(test: list[Row]) -> None:
    texts = read(rows(tokens=TOKENS, tags=TAGS), splits={"test": test})
    assert labels(texts, "test") == [[-100] * 5, [-100] * 2, [-100]]
    assert texts.splits["test"]["words"][:] == WORDS


def test_test_rows_with_some_spans_have_none_where_the_list_is_empty() -> None:
    train = rows(text=TEXTS, entities=SPANS)
    assert labels(read(train, splits={"test": train}), "test") == LABELS
    empty = rows(text=TEXTS, entities=[[]] * 3)
    assert labels(read(train, splits={"test": empty}), "test")[0] == [-100] * 5


def test_unlabelled_rows_have_lists_as_they_are_and_texts_cut_as_the_training_rows() -> None:
    spaced, by_rule = [0, 4, 5, 8], [0, 1, 1, 2, 2, 3, 3, 4, 5, 8]
    lists, spans = (
        rows(tokens=TOKENS, tags=TAGS),
        rows(text=[f"{one}." for one in TEXTS], spans=SPANS),
    )
    for train, more, words in (
        (lists, {"tokens": ["U.S.", "now"]}, spaced),
        (lists, {"text": "U.S. now"}, spaced),
        (spans, {"text": "U.S. now"}, by_rule),
    ):
        (row,) = read(train, splits={"unlabeled": [more]}).splits["unlabeled"]
        assert (row["text"], row["words"]) == ("U.S. now", words)
        assert row["label"] == [-100] * (len(words) // 2)


# -- splits ----------------------------------------------------------------------------------------


def many(count: int) -> TextData:
    of = [
        {"tokens": [f"w{n}"] * (1 + n % 3), "tags": ["B-X"] + ["I-X"] * (n % 3), "author": n // 3}
        for n in range(count)
    ]
    of[0] = {"tokens": ["other"], "tags": ["O"], "author": 0}
    return from_splits({"train": of}, problem=PROBLEMS["entities"], group_column="author")


def test_words_stay_with_their_rows_when_rows_are_split_off_held_out_or_taken() -> None:
    texts = many(120)
    assert texts.split_off
    train = texts.splits["train"]
    assert len(train) + len(texts.splits["validation"]) == 120
    for part in (train, texts.splits["validation"], *hold_out(train, 0.2), take(train, 10)):
        for row in part:
            assert row["words"][-1] == len(row["text"])
            assert len(row["words"]) == 2 * len(row["label"]) == 2 * len(row["text"].split())
        assert labels_of(part["label"]).shape == (len(part), 3)


def test_labels_of_pads() -> None:
    assert labels_of([[1, 2], [], [3]]).tolist() == [[1, 2], [-100, -100], [3, -100]]
    assert labels_of([[1, 2], [0, 3]]).tolist() == [[1, 2], [0, 3]]
    assert labels_of([0.5, 1.0]).tolist() == [0.5, 1.0]
    assert labels_of(Dataset.from_dict({"label": [[1], [2, 0]]})["label"]).shape == (2, 2)


def test_the_fingerprint_tells_words_and_labels_apart_and_others_have_the_old_one() -> None:
    base = [{"text": "a b", "tags": "X O"}]
    found = {
        read(of).fingerprint
        for of in (
            base,
            [{"tokens": ["a", "b"], "tags": "X O"}],
            [{"tokens": ["a b"], "tags": ["X"]}, {"tokens": ["c"], "tags": ["O"]}],
            [{"tokens": ["a b"], "tags": ["B-X"]}, {"tokens": ["c"], "tags": ["B-X"]}],
            [{"text": "a b", "tags": "X X"}, {"text": "c", "tags": "O"}],
        )
    }
    assert len(found) == 4
    one = read([{"text": "a b", "tags": "X O"}]).splits["train"]
    other = read([{"tokens": ["a b"], "tags": ["B-X"]}]).splits["train"]
    assert texts_hash(one) == texts_hash(other)
    classes = [{"text": "a", "label": 0}, {"text": "b", "label": 1}]
    assert from_splits({"train": classes, "validation": classes}).fingerprint == (
        "e96a31d9b18870c29262ab52a18ec8f9c426a9c25251e60e8c561f9852df4fff"
    )


# -- faults ----------------------------------------------------------------------------------------

GOOD = {"tokens": ["a", "b"], "tags": ["B-X", "O"]}
PRINTED = "a list without commas, as NumPy prints it; write lists as JSON, or the file as Parquet"
SPAN = {"text": "ab cd ef", "spans": [[0, 2, "X"]]}
OUTSIDE_TEXT = (
    "is not within its text of 8 characters; wanted the place of its first character, counted from "
    "0, and the place after its last (column 'spans')"
)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"tokens": ["a", "b", "c"], "tags": ["O"]}, "1 tags for 3 words (column 'tags')"),
        (
            {"tokens": ["a", "b"], "tags": [0.5, "O"]},
            "found the tag '0.5', wanted O, or B- or I- before a type, as in the training rows",
        ),
        (
            {"tokens": ["a", "b"], "tags": [["O"], "O"]},
            "found spans, wanted a tag for each word, as "
            "the first training row has (column 'tags')",
        ),
        (
            {"tokens": ["a", "b"], "tags": ["O", ["O"]]},
            "tag 2: found a list as label, wanted one text "
            "or integer; for several labels per row give --data.problem "
            "multi_label (column 'tags')",
        ),
        ({"tokens": ["a", "b"], "tags": ["", "O"]}, "tag 1: the label is missing (column 'tags')"),
        (
            {"tokens": ["a", "b"], "tags": 7},
            "found 7, wanted a list with a tag for each word (column 'tags')",
        ),
        ({"tokens": ["a", "b"], "tags": None}, "the labels are missing (column 'tags')"),
        (
            {"tokens": ["a", "b"], "tags": [None, -100]},
            "no word has a label; wanted one that is not -100 (column 'tags')",
        ),
        (
            {"tokens": ["a", " "], "tags": ["O", "O"]},
            "word 2 is empty; leave it out, and its label (column 'tokens')",
        ),
        (
            {"tokens": ["a", "b"], "tags": ["O", -1]},
            "tag 2: found -1, which marks hidden labels, wanted a tag, or -100 for a word without "
            "one (column 'tags')",
        ),
        (
            {"tokens": "['a' 'b']", "tags": ["O", "O"]},
            f"found \"['a' 'b']\", {PRINTED} (column 'tokens')",
        ),
        (
            {"tokens": ["a", "b"], "tags": "['O' 'O']"},
            f"found \"['O' 'O']\", {PRINTED} (column 'tags')",
        ),
        (
            {"tokens": ["a", "b"], "tags": "[0 1]"},
            f"found '[0 1]', {PRINTED} (column 'tags')",
        ),
        ({"tokens": ["a", 5], "tags": ["O", "O"]}, "word 2 is 5, wanted text (column 'tokens')"),
        ({"tokens": [], "tags": []}, "the text is empty (column 'tokens')"),
        ({"tokens": ["\u200b"], "tags": ["O"]}, "the text is empty (column 'tokens')"),
        ({"tokens": None, "tags": ["O"]}, "the text is missing (column 'tokens')"),
        (
            {"tokens": ["\ud800"], "tags": ["O"]},
            "the text holds half a character (a lone surrogate), "
            "which is not Unicode (column 'tokens')",
        ),
        ({"tokens": ["a"], "tags": ["B-Y"]}, "unknown tag 'B-Y'; the types are 'X'"),
    ],
)
def test_faults_of_tags_in_a_row(row: Row, problem: str) -> None:
    splits = {"train": [GOOD], "validation": [GOOD, row]}
    found = problems_of(lambda: from_splits(splits, problem=PROBLEMS["entities"]))
    assert found == [f"memory[validation]: row 2: {problem}"]


@pytest.mark.parametrize(
    ("text", "spans", "problem"),
    [
        ("ab cd ef", [[0, 9, "X"]], f"the span 0 to 9 (X) {OUTSIDE_TEXT}"),
        ("ab cd ef", [[3, 3, "X"]], f"the span 3 to 3 (X) {OUTSIDE_TEXT}"),
        ("ab cd ef", [[-2, 3, "X"]], f"the span -2 to 3 (X) {OUTSIDE_TEXT}"),
        (
            "ab cd ef",
            [[0, 4, "X"], [3, 5, "X"]],
            "the spans 0 to 4 (X) and 3 to 5 (X) overlap; keep one of them (column 'spans')",
        ),
        (
            "ab cd ef",
            [[1, 2, "X"], [0, 1, "X"]],
            "the spans 0 to 1 (X) and 1 to 2 (X) are parts of "
            "one word; keep one of them (column 'spans')",
        ),
        (
            "ab cd ef",
            [[2, 3, "X"]],
            "the span 3 to 3 (X) covers no word; leave it out (column 'spans')",
        ),
        (
            "ab cd ef",
            [[0, 2]],
            "found [0, 2] as a span, wanted an object with start, end and label, "
            "or a list [start, end, label]; start and end are integers (column 'spans')",
        ),
        (
            "ab cd ef",
            [{"start": "0", "end": 2, "label": "X"}],
            "found {'start': '0', 'end': 2, "
            "'label': 'X'} as a span, wanted an object with start, end and label, "
            "or a list [start, "
            "end, label]; start and end are integers (column 'spans')",
        ),
        ("ab cd ef", [{"start": 0, "end": 2}], "the label is missing (column 'spans')"),
        (
            "ab cd ef",
            {"start": 0, "end": 2},
            "found {'start': 0, 'end': 2}, wanted a list of spans (column 'spans')",
        ),
        (
            "ab cd ef",
            "B-X O O",
            "found 'B-X O O', wanted spans, as the first training row has (column 'spans')",
        ),
        ("ab cd ef", None, "the labels are missing (column 'spans')"),
        ("ab cd ef", [[0, 2, "Y"]], "unknown tag 'B-Y'; the types are 'X'"),
        (" ", [], "the text is empty (column 'text')"),
    ],
)
def test_faults_of_spans_in_a_row(text: str, spans: Any, problem: str) -> None:
    splits = {"train": [SPAN], "validation": [SPAN, {"text": text, "spans": spans}]}
    found = problems_of(lambda: from_splits(splits, problem=PROBLEMS["entities"]))
    assert found == [f"memory[validation]: row 2: {problem}"]


PLAIN = rows(tokens=TOKENS, tags=[["N", "N", "V", "N", "N"], ["P", "N"], ["N"]])
NO_SCHEME = (
    "wanted O, and B- and I- before the type of an entity, or another usual scheme (IOB1, BIOES, "
    "BILOU, O and types); for any other tag on each word give --data.problem tags"
)


@pytest.mark.parametrize(
    ("kind", "train", "options", "problem"),
    [
        ("entities", PLAIN, {}, f"found the tags 'N', 'P', 'V' (column 'tags'), {NO_SCHEME}"),
        (
            "entities",
            rows(tokens=TOKENS, tags=AS_CLASSES),
            {},
            "found the tags '0', '1', '2', '5', "
            f"'6' (column 'tags'), {NO_SCHEME}; name integers in their order, with "
            "--data.label_names "
            "O,B-PER,I-PER,…",
        ),
        (
            "entities",
            [{**GOOD, "tags": ["B-X", "Y"]}, {**GOOD, "tags": ["O", "O"]}],
            {},
            f"found the tags 'B-X', 'O', 'Y' (column 'tags'), {NO_SCHEME}",
        ),
        (
            "entities",
            [{**GOOD, "tags": ["b-X", "i-X"]}, {**GOOD, "tags": ["O", "O"]}],
            {},
            f"found the tags 'O', 'b-X', 'i-X' (column 'tags'), {NO_SCHEME}",
        ),
        (
            "entities",
            [{**GOOD, "tags": ["O", "O"]}],
            {},
            "no word is part of an entity (column 'tags'); wanted some",
        ),
        (
            "entities",
            rows(tokens=TOKENS, entities=SPANS),
            {},
            "found spans (column 'entities') and "
            "lists of words (column 'tokens'); spans need the text as one string: "
            "name its column with "
            "--data.text_columns A, or give a tag for each word",
        ),
        (
            "entities",
            [GOOD],
            {"label_names": ["PER"]},
            "found 'X', which --data.label_names does not name; it has 'PER'",
        ),
        (
            "entities",
            [GOOD],
            {"label_column": "no"},
            "no column 'no'; the columns are 'tokens', 'tags'",
        ),
        (
            "entities",
            [GOOD],
            {"text_columns": ["tokens", "tags"]},
            "wanted one text column, since "
            "each word has a label, and not the label's, found 'tokens', 'tags'; name it with "
            "--data.text_columns A",
        ),
        (
            "entities",
            [{**GOOD, "words": ["a", "b"]}],
            {},
            "several possible text columns, 'tokens', "
            "'words'; the columns are 'tokens', 'tags', 'words'; name it with "
            "--data.text_columns A",
        ),
        (
            "entities",
            [{"x": ["a"], "tags": ["B-X"]}],
            {},
            "no text column found; the columns are 'x', 'tags'; name it with --data.text_columns A",
        ),
        (
            "entities",
            [{**GOOD, "x": 1, "ner": 1, "spans": 1, "Tags": 1}],
            {},
            "several label columns, "
            "'ner', 'spans'; the columns are 'tokens', 'tags', 'x', 'ner', "
            "'spans', 'Tags'; name it "
            "with --data.label_column NAME",
        ),
        (
            "entities",
            [GOOD],
            {"text_columns": ["no"]},
            "no column 'no'; the columns are 'tokens', 'tags'",
        ),
        (
            "entities",
            [GOOD],
            {"skip_labels": ["O"]},
            "--data.skip_labels leaves out rows of a class, "
            "and the labels are for entities; leave it out",
        ),
        (
            "entities",
            [GOOD],
            {"label_separator": ";"},
            "--data.label_separator is for several labels "
            "per row; give --data.problem multi_label with it, or leave it out",
        ),
        (
            "entities",
            [GOOD],
            {"task": "mrpc"},
            "task mrpc has labels for classification, and they "
            "are to be read for entities; leave out --data.task or --data.problem",
        ),
        (
            "tags",
            [{**GOOD, "tags": ["N", "N"]}],
            {},
            "all words have the tag 'N'; wanted two tags or more",
        ),
        (
            "tags",
            [SPAN],
            {},
            "found spans (column 'spans'), and the labels are a tag for each word; "
            "for spans give --data.problem entities",
        ),
        (
            "tags",
            PLAIN,
            {"label_names": ["N", "V"]},
            "found 'P', which --data.label_names does not name; it has 'N', 'V'",
        ),
    ],
)
def test_faults_of_training_rows(
    kind: str, train: list[Row], options: dict[str, Any], problem: str
) -> None:
    found = problems_of(lambda: read(train, kind, **options))
    assert found[0] == f"memory[train]: {problem}"
    assert len(found) <= 2  # the validation rows may lack the same column


def test_probabilities_of_words_are_refused() -> None:
    of = [{**GOOD, "probabilities": [0.5, 0.5]}]
    found = problems_of(lambda: read(of, soft_labels="beside"))
    assert found[0] == (
        "memory[train]: found probabilities (the column probabilities), and each word has a label: "
        "soft labels of words cannot be read from a file; give --teacher, and leave them out"
    )
    assert labels(read(of, soft_labels="instead")) == [[1, 0]]


def test_every_bad_row_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    write_jsonl(file, [GOOD, {**GOOD, "tags": ["O"]}, {**GOOD, "tokens": ["a", ""]}, GOOD])
    write_jsonl(tmp_path / "dev.jsonl", [GOOD, {**GOOD, "tags": ["B-Z", "O"]}])
    found = problems_of(lambda: load_texts(DataConfig(path=str(tmp_path), problem="entities")))
    assert found == [
        f"{file}:2: 1 tags for 2 words (column 'tags')",
        f"{file}:3: word 2 is empty; leave it out, and its label (column 'tokens')",
        f"{tmp_path}/dev.jsonl:2: unknown tag 'B-Z'; the types are 'X'",
    ]
    text = [{"text": "a b,", "tags": "B-X O O"}]
    assert problems_of(lambda: read(text)) == [
        f"memory[{split}]: row 1: 3 tags for 2 words, which are what stands between spaces (column "
        "'tags')"
        for split in ("train", "validation")
    ]
