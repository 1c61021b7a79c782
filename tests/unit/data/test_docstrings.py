"""The embedded task: real, balanced, free of leaks, and not solved by counting words."""

import hashlib
import re
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import pytest
from sklearn.linear_model import LogisticRegression

from layermix.data.docstrings import (
    LABEL_NAMES,
    TOPICS,
    _build,
    _docstrings,
    _from_memory,
    _own,
    _sentences,
    _topics,
    _usable,
    docstring_pairs,
    docstring_topics,
    write_rows,
)
from layermix.errors import DataError


@pytest.fixture(scope="module")
def docstrings():
    return _docstrings(Path(sysconfig.get_path("stdlib")))


@pytest.fixture(scope="module")
def full():
    return docstring_pairs(None)


def first_sentence(row):
    return row["text"].split(": ", 1)[1]


def plain(sentence):
    return " ".join(re.findall(r"\w+", sentence.lower()))


def test_sizes_and_balance(full):
    assert 450 <= len(full["validation"]) <= 700
    assert len(full["train"]) > 3000
    for rows in full.values():
        assert Counter(row["label"] for row in rows) == dict.fromkeys(LABEL_NAMES, len(rows) // 2)


def test_train_and_validation_share_no_sentence_and_no_object(full):
    def sentences(rows):
        return {plain(text) for row in rows for text in (first_sentence(row), row["text_pair"])}

    def names(rows):
        return {row["text"].split(": ", 1)[0] for row in rows}

    assert not sentences(full["train"]) & sentences(full["validation"])
    assert not names(full["train"]) & names(full["validation"])


def test_neither_text_alone_tells_the_label(full):
    for rows in full.values():
        for column in ("text", "text_pair"):
            same, different = (
                Counter(row[column] for row in rows if row["label"] == label)
                for label in ("same", "different")
            )
            assert same == different


def test_no_negative_is_a_sentence_of_the_object(full):
    for rows in full.values():
        own = {(row["text"], row["text_pair"]) for row in rows if row["label"] == "same"}
        other = {(row["text"], row["text_pair"]) for row in rows if row["label"] == "different"}
        assert len(own) == len(other) == len(rows) / 2
        assert not own & other


def test_about_a_third_of_the_negatives_are_of_the_same_module(full):
    for rows in full.values():
        module = {
            row["text_pair"]: row["text"].split(".")[0] for row in rows if row["label"] == "same"
        }
        near = [
            module[row["text_pair"]] == row["text"].split(".")[0]
            for row in rows
            if row["label"] == "different"
        ]
        assert 0.2 < sum(near) / len(near) < 0.45


def test_texts_are_plain_sentences(full):
    for row in full["train"] + full["validation"]:
        assert set(row) == {"text", "text_pair", "label"}
        assert re.match(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+: [A-Z]", row["text"])
        for sentence in (first_sentence(row), row["text_pair"]):
            assert 4 <= len(sentence.split()) <= 60
            assert sentence == " ".join(sentence.split())
            assert ">>>" not in sentence
        assert ".test." not in row["text"].split(": ")[0]


def test_small_is_part_of_full_and_validation_stays(docstrings, full):
    small = _build(docstrings, 200, 0)
    assert small["train"] == full["train"][:200]
    assert Counter(row["label"] for row in small["train"]) == {"same": 100, "different": 100}
    assert small["validation"] == full["validation"]


def test_seed_draws_other_rows_but_keeps_the_split(docstrings, full):
    other = _build(docstrings, None, 1)
    assert other["train"][:20] != full["train"][:20]
    for side in full:
        assert {row["text"] for row in other[side]} == {row["text"] for row in full[side]}


def test_another_process_builds_the_same_silently(full):
    code = (
        "from layermix.data.docstrings import docstring_pairs as build; import hashlib, sys;"
        "sys.stderr.write(hashlib.sha256(repr(build()).encode()).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(filter(None, sys.path)), "PYTHONHASHSEED": "7"},
    )
    assert done.stdout == ""
    full = {**full, "train": full["train"][:1500]}
    assert done.stderr == hashlib.sha256(repr(full).encode()).hexdigest()


def test_word_overlap_is_above_chance_and_does_not_solve_it(full):
    def features(rows):
        for row in rows:
            text, other = (
                set(re.findall(r"[a-z]+", row[c].lower())) for c in ("text", "text_pair")
            )
            shared = len(text & other)
            yield [shared, shared / len(other), shared / len(text | other), len(other)]

    def labels(rows):
        return [row["label"] for row in rows]

    model = LogisticRegression().fit(list(features(full["train"])), labels(full["train"]))
    accuracy = model.score(list(features(full["validation"])), labels(full["validation"]))
    assert 0.55 < accuracy < 0.75


def test_too_many_rows_says_how_many_there_are(docstrings, full):
    with pytest.raises(DataError, match=f"wanted 1 to {len(full['train'])} "):
        _build(docstrings, 10**6, 0)
    with pytest.raises(DataError, match="found train_rows 0"):
        _build(docstrings, 0, 0)


def test_a_python_without_source_is_told(tmp_path):
    compiled = _docstrings(tmp_path)
    assert "builtins.str.split" in compiled
    for build in (lambda: _build(compiled, None, 0), lambda: _topics(compiled)):
        with pytest.raises(DataError, match="its source files are missing, so use a full Python"):
            build()


def test_topics_are_parts_of_the_library_and_splits_share_no_sentence(docstrings):
    splits = docstring_topics()
    assert 350 <= len(splits["validation"]) <= 600
    assert 1200 <= len(splits["train"]) <= 2000
    texts = {side: {plain(row["text"]) for row in rows} for side, rows in splits.items()}
    for side, rows in splits.items():
        assert {row["label"] for row in rows} == set(TOPICS)
        assert len(texts[side]) == len(rows)
    assert not texts["train"] & texts["validation"]
    documented = {plain(text): name for name, text in docstrings.items()}
    one = next(row for row in splits["train"] if plain(row["text"]) in documented)
    assert documented[plain(one["text"])].split(".")[0] == one["label"]
    assert splits == docstring_topics()


def test_written_files_read_back_and_are_never_overwritten(tmp_path, full):
    write_rows(tmp_path / "new" / "folder", full)
    for side, rows in full.items():
        lines = (tmp_path / "new" / "folder" / f"{side}.tsv").read_text("utf-8").split("\n")
        assert lines[0] == "text\ttext_pair\tlabel"
        assert lines[-1] == ""
        assert [
            dict(zip(row, line.split("\t"), strict=True))
            for row, line in zip(rows, lines[1:-1], strict=True)
        ] == rows
    with pytest.raises(FileExistsError):
        write_rows(tmp_path / "new" / "folder", full)


@pytest.mark.parametrize(
    ("docstring", "wanted"),
    [
        (
            "Return the sum of it.  Then\nstop at the end.",
            ["Return the sum of it.", "Then stop at the end."],
        ),
        (
            "Open one file, e.g. A text.  Close it after all.",
            ["Open one file, e.g. A text.", "Close it after all."],
        ),
        ("Too short.  One more is long enough.", ["One more is long enough."]),
        (
            "Show this short example.\n\n>>> f(1, 2)\nNot a sentence at all.",
            ["Show this short example."],
        ),
        ("Take these few options.\n\n- One of the many options.", ["Take these few options."]),
        (
            "Read this first please.\n\n    Then this indented block here.",
            ["Read this first please."],
        ),
        ("f(x, y) -> the value of it.\n\nReturn the value of f.", ["Return the value of f."]),
        ("This one never comes to a stop", []),
        ("Far " + "too " * 60 + "long.", []),
        ("", []),
    ],
)
def test_sentences(docstring, wanted):
    assert _sentences(docstring) == wanted


def test_a_later_sentence_that_occurs_twice_is_not_used():
    found = _usable(
        {
            "a.f": "Return the first one. This is said twice. This is said once.",
            "a.g": "Return the second one. This is said TWICE!",
            "a.h": "Return the first one. Return the second one.",
        }
    )
    assert found == {"a.f": ("Return the first one.", ["This is said once."])}


def test_what_other_packages_put_into_a_module_is_not_used():
    assert _own({"len": len, "pytest": pytest.raises, "size": 3}) == {"len": len, "size": 3}


def test_compiled_members_are_found_without_private_ones_and_constants():
    class Thing:
        """A thing."""

        def act(self):
            """Act."""

        def _hide(self):
            """Hide."""

        @property
        def size(self):
            """Its size."""

        count = 3

    found = dict(_from_memory({"Thing": Thing, "PI": 3.14, "_private": Thing, "go": None}, "m"))
    assert found == {"m.Thing": "A thing.", "m.Thing.act": "Act.", "m.Thing.size": "Its size."}
