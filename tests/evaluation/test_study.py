"""The plan of a study, its answers on disk and its report; what does not belong is refused."""

import csv
import json
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from study_folder import METHODS, SCENES, answer, write_study

from zeronvs._core.errors import InputError
from zeronvs._core.files import read_json, write_json
from zeronvs.evaluation.study import QUESTIONS, SCHEMA, Study, read_study
from zeronvs.evaluation.study_answers import Answers, merged, read_answers
from zeronvs.evaluation.study_report import notes, preference_rows, write_study_report


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path / "study", size_px=16)


# ---- the plan


def test_a_study_is_read_as_it_was_written(study: Study):
    assert read_study(study.folder) == study
    assert read_study(study.folder).missing == []


def test_a_study_names_its_missing_videos(study: Study):
    study.video(study.pairs[1].videos[0]).unlink()
    assert read_study(study.folder).missing == [study.pairs[1].videos[0]]


DAMAGE = [
    {"kind": "scene"},
    {"schema": SCHEMA + 1},
    {"id": "../x"},
    {"id": 7},
    {"methods": ["a"]},
    {"methods": ["a", "a"]},
    {"methods": ["a", ""]},
    {"methods": None},
    {"settings": 3},
    {"pairs": []},
    {"pairs": 3},
    {"pairs": [{"scene": "x", "videos": ["../../secret.mp4", "0000000000000001.mp4"]}]},
    {"pairs": [{"scene": "x", "videos": ["0000000000000001.mp4"] * 2}]},
    {"pairs": [{"scene": "x", "videos": ["0000000000000001.mp4\n", "0000000000000002.mp4"]}]},
    {"pairs": [{"scene": 5, "videos": ["0000000000000001.mp4", "0000000000000002.mp4"]}]},
    {"pairs": [{"videos": ["0000000000000001.mp4", "0000000000000002.mp4"]}]},
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_hostile_plan_is_refused_in_one_line(study: Study, damage: dict):
    path = study.folder / "study.json"
    write_json(path, read_json(path) | damage)
    with pytest.raises(InputError, match=r"study\.json") as caught:
        read_study(study.folder)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_plan_is_no_study(tmp_path: Path):
    with pytest.raises(InputError, match="zeronvs study build"):
        read_study(tmp_path)


# ---- answers


def test_a_later_answer_replaces_the_earlier_one(study: Study):
    answers = Answers(study)
    answers.put(answer("anna", "garden", "creative", 0, at=1.0))
    answers.put(answer("anna", "garden", "creative", 1, at=2.0))
    answers.put(answer("ben", "garden", "creative", 0, at=3.0))
    assert answers.of("anna") == [answer("anna", "garden", "creative", 1, at=2.0)]
    assert len(read_answers(answers.path, study)) == 2
    Answers(study)  # opened again, it keeps what it has
    assert len(read_answers(answers.path, study)) == 2
    assert [path.name for path in study.folder.iterdir() if "sqlite" in path.name] == [
        "answers.sqlite"
    ]


KILLED = """
import os, sys
from pathlib import Path
from zeronvs.evaluation.study import read_study
from zeronvs.evaluation.study_answers import Answer, Answers
study = read_study(Path(sys.argv[1]))
answers = Answers(study)
answers.put(Answer("anna", "garden", "creative", 1, 0, 1.0))
with answers._opened() as file:
    file.execute("PRAGMA cache_size = 1")  # so that pages are written before the end
    for k in range(20_000):
        row = (f"person {k}", "garden", "creative", 1, 0, 2.0)
        file.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?)", row)
    os._exit(9)
"""


def test_a_kill_in_the_midst_of_writing_leaves_the_answers_before_it(study: Study):
    program = [sys.executable, "-c", KILLED, study.folder]
    assert subprocess.run(program, check=False, timeout=60).returncode == 9
    assert (study.folder / "answers.sqlite-journal").exists()
    again = Answers(study)
    assert read_answers(again.path, study) == [answer("anna", "garden", "creative", 1, at=1.0)]
    again.put(answer("anna", "stump", "creative", 1, at=3.0))
    assert len(again.of("anna")) == 2


def test_answers_of_another_study_or_schema_are_refused(study: Study, tmp_path: Path):
    other = replace(study, folder=tmp_path / "other", id="f" * 32)
    other.folder.mkdir()
    path = Answers(other).path
    with pytest.raises(InputError, match=r"another study \(f{32}, not 0123.*not mixed"):
        read_answers(path, study)
    path = Answers(study).path
    with sqlite3.connect(path) as file:
        file.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    file.close()
    for refused in (lambda: read_answers(path, study), lambda: Answers(study)):
        with pytest.raises(InputError, match=f"has schema {SCHEMA + 1}"):
            refused()


ROWS = [
    ("anna", "kitchen", "creative", 0, 0, 1.0),
    ("anna", "garden", "beautiful", 0, 0, 1.0),
    ("anna", "garden", "creative", 2, 0, 1.0),
    ("anna", "garden", "creative", 0, -1, 1.0),
    ("anna", "garden", "creative", "0; 1", 0, 1.0),
    ("anna", "garden", "creative", 0.5, 0, 1.0),
    ("anna", "garden", "creative", 0, 0, float("inf")),
    ("a" * 65, "garden", "creative", 0, 0, 1.0),
    (b"anna", "garden", "creative", 0, 0, 1.0),
]


@pytest.mark.parametrize("row", ROWS)
def test_a_row_that_is_no_answer_to_this_study_is_refused(study: Study, row: tuple):
    path = Answers(study).path
    with sqlite3.connect(path) as file:
        file.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?)", row)
    file.close()
    with pytest.raises(InputError, match="no answer to this study"):
        read_answers(path, study)


def test_files_that_hold_no_answers_are_refused(study: Study, tmp_path: Path):
    (tmp_path / "text").write_text("SQLite format 3, or so", encoding="utf-8")
    with pytest.raises(InputError, match="holds no answers"):
        read_answers(tmp_path / "text", study)
    with pytest.raises(InputError, match="no such file"):
        read_answers(tmp_path / "none", study)
    assert not (tmp_path / "none").exists()
    file = sqlite3.connect(tmp_path / "view")  # one that would never end
    file.execute("CREATE TABLE study (id TEXT)")
    file.execute("INSERT INTO study VALUES (?)", (study.id,))
    file.execute(
        "CREATE VIEW answers AS WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n) "
        "SELECT k participant, 'x' scene, 'x' question, 0 chosen, 0 first, 1.0 answered_at FROM n"
    )
    file.execute(f"PRAGMA user_version = {SCHEMA}")
    file.commit()
    file.close()
    with pytest.raises(InputError, match="holds no answers"):
        read_answers(tmp_path / "view", study)


def test_of_two_files_the_later_answer_to_a_question_counts():
    early = [answer("anna", "garden", "creative", 0, at=1.0)]
    late = [answer("anna", "garden", "creative", 1, at=2.0), answer("ben", "garden", "creative", 0)]
    assert (
        merged([early, late]) == merged([late, early]) == sorted(late, key=lambda a: a.participant)
    )


# ---- the report


def everyone(study: Study, shares: dict[str, int]) -> list:
    """Return the answers of ten participants, of whom some choose the first method everywhere."""
    return [
        answer(f"p{k}", pair.scene, question, int(k >= shares[question]), first=k % 2)
        for k in range(10)
        for pair in study.pairs
        for question in QUESTIONS
    ]


def test_the_report_has_the_numbers_of_the_answers(study: Study, tmp_path: Path):
    answers = everyone(study, {"realistic": 8, "creative": 5, "preferred": 10})
    files = write_study_report(tmp_path / "report", study, answers)
    assert all(path.is_file() for path in files)
    rows = preference_rows(study, answers)
    assert [row[0] for row in rows] == ["", "all scenes", *SCENES]
    assert [cell.split(" [")[0] for cell in rows[1][1:]] == ["80 %", "50 %", "100 %"]
    assert rows[2][1] == "80 % [49, 94] (8/10)"  # Wilson
    content = json.loads((tmp_path / "report" / "metrics.json").read_text(encoding="utf-8"))
    (found,) = [r for r in content["results"] if r["question"] == "realistic" and not r["scene"]]
    assert (found["count"], found["answers"], found["value"]) == (24, 30, 0.8)
    assert found["low"] < 0.8 < found["high"]
    assert content["study"] == study.id
    assert content["published"] == {"realistic": 0.78, "creative": 0.82, "preferred": 0.80}
    assert content["agreement"]["preferred"]["krippendorff_alpha"] is None
    with (tmp_path / "report" / "answers.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(answers)
    chosen = [line["chosen"] for line in lines if line["question"] == "realistic"]
    assert [chosen.count(name) for name in METHODS] == [24, 6]


def test_the_report_opens_without_a_network_and_escapes_names(tmp_path: Path):
    scene = "<script>alert(1)</script>"
    study = write_study(tmp_path / "study", (scene,), size_px=16)
    answers = everyone(study, dict.fromkeys(QUESTIONS, 5))
    write_study_report(tmp_path / "report", study, answers)
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert page.count("<circle") == 2 * len(QUESTIONS)
    for word in ("src=", "href=", "@import", "url("):
        assert word not in page


def test_what_was_not_answered_stays_empty(study: Study):
    rows = preference_rows(study, [answer("anna", "garden", "creative", 0)])
    assert rows[1] == ["all scenes", "", "100 % (1/1)", ""]
    assert rows[2] == ["bonsai", "", "", ""]
    assert any(
        "one participant" in line for line in notes(study, [answer("a", "x", "creative", 0)])
    )
