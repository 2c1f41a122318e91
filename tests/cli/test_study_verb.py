"""`zeronvs study`: served, killed, served again, reported; wrong words in one line."""

import http.client
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from study_folder import write_study

from zeronvs.evaluation.study import Study
from zeronvs.evaluation.study_answers import Answer, Answers


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path / "study", size_px=16)


class Served:
    """`zeronvs study serve` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        words = [sys.executable, "-m", "zeronvs.cli", "study", "serve", str(folder), "--port", "0"]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, encoding="utf-8")
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.place = line.split("http://")[1].split("/")[0]

    def __call__(self, method: str, path: str, content=None, cookie: str = ""):
        connection = http.client.HTTPConnection(self.place, timeout=60)
        headers = {"origin": f"http://{self.place}", "content-type": "application/json"}
        body = None if content is None else json.dumps(content)
        connection.request(method, path, body, headers | {"cookie": cookie})
        answer = connection.getresponse()
        found = answer.status, answer.getheader("set-cookie", "").split(";")[0], answer.read()
        connection.close()
        return found

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        code = self.process.wait(timeout=60)
        self.process.stdout.close()
        return code


def test_answers_outlive_a_killed_server_and_are_reported(
    zeronvs, study: Study, tmp_path: Path, capsys
):
    first = Served(study.folder)
    status, cookie, _ = first("GET", "/")
    assert status == 200
    content = {"trial": 0, "question": "realistic", "video": 2}
    assert first("POST", "/answers", content, cookie)[0] == 200
    first.end(signal.SIGKILL)
    second = Served(study.folder)
    trials = json.loads(second("GET", "/trials", cookie=cookie)[2])["trials"]
    assert trials[0]["answers"] == {"realistic": 2}
    assert second.end(signal.SIGTERM) == 130
    assert zeronvs("study", "report", study.folder, "-o", tmp_path / "report") == 0
    printed = capsys.readouterr().out
    assert "(1/1)" in printed or "(0/1)" in printed
    assert (tmp_path / "report" / "report.html").is_file()


def test_answers_of_several_machines_are_merged_and_those_of_others_refused(
    zeronvs, study: Study, tmp_path: Path, capsys
):
    Answers(study).put(Answer("anna", "garden", "creative", 0, 0, 1.0))
    shutil.copytree(study.folder, tmp_path / "laptop")
    elsewhere = Study(**{**vars(study), "folder": tmp_path / "laptop"})
    Answers(elsewhere).put(Answer("ben", "garden", "creative", 1, 0, 2.0))
    Answers(elsewhere).put(Answer("anna", "garden", "creative", 1, 0, 3.0))
    file = tmp_path / "laptop" / "answers.sqlite"
    assert zeronvs("study", "report", study.folder, file) == 0
    content = json.loads((study.folder / "report" / "metrics.json").read_text(encoding="utf-8"))
    assert content["participants"] == 2
    (overall,) = [result for result in content["results"] if result["scene"] is None]
    assert (overall["count"], overall["answers"]) == (0, 2)
    (tmp_path / "other").mkdir()
    other = Study(**{**vars(study), "folder": tmp_path / "other", "id": "a" * 32})
    capsys.readouterr()
    assert zeronvs("study", "report", study.folder, Answers(other).path) == 2
    assert "studies are not mixed" in capsys.readouterr().err


def test_what_is_missing_is_said_in_one_line(zeronvs, study: Study, tmp_path: Path, capsys):
    def refused(*words: object) -> str:
        assert zeronvs("study", *words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "no answers yet" in refused("report", study.folder)
    assert "no study.json" in refused("serve", tmp_path)
    assert "--port" in refused("serve", study.folder, "--port", "70000")
    assert "--frames" in refused("build", tmp_path, tmp_path, "-o", tmp_path, "--frames", "0")
    assert "no 'study show'" in refused("show")
    assert "--names" in refused("build", tmp_path, tmp_path, "-o", tmp_path / "s")
    study.video(study.pairs[0].videos[0]).unlink()
    assert "lacks 1 videos" in refused("serve", study.folder)


def test_help_names_the_three_parts(zeronvs, capsys):
    assert zeronvs("study", "--help") == 0
    printed = capsys.readouterr().out
    for word in ("study build", "study serve", "study report"):
        assert word in printed
