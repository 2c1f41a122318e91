"""The page of a study without a browser: blindness, replaced answers, hostile requests."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from loopback import Client, serving
from study_folder import METHODS, SCENES, write_study

from zeronvs.evaluation.study import QUESTIONS, Study
from zeronvs.evaluation.study_answers import Answers, read_answers
from zeronvs.web.guard import MAX_JSON_BYTES
from zeronvs.web.study_page import make_study_app


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return write_study(tmp_path_factory.mktemp("plan") / "study")


@pytest.fixture
def study(plan: Study, tmp_path: Path) -> Study:
    """Return the study in a folder of its own, beside a file that is not for participants."""
    shutil.copytree(plan.folder, tmp_path / "study")
    (tmp_path / "secret.mp4").write_text("secret", encoding="utf-8")
    return Study(**{**vars(plan), "folder": tmp_path / "study"})


@pytest.fixture
def address(study: Study):
    with serving(make_study_app(study, Answers(study), host="127.0.0.1")) as address:
        yield address


def participant(address: str) -> Client:
    client = Client(address)
    assert client("GET", "/").status == 200
    return client


def send(client: Client, trial: object, question: object, video: object) -> int:
    content = {"trial": trial, "question": question, "video": video}
    return client("POST", "/answers", content).status


def test_nothing_that_is_sent_tells_the_methods_apart(address: str, study: Study):
    client = participant(address)
    trials = client("GET", "/trials")
    videos = [name for trial in trials.json["trials"] for name in trial["videos"]]
    sent = [client("GET", "/"), trials, *(client("GET", f"/{name}") for name in videos)]
    for found in sent:
        everything = found.content + json.dumps(found.headers).encode()
        for word in (*METHODS, *SCENES):
            assert word.encode() not in everything
    times = {answer.headers.get("last-modified") for answer in sent[2:]}
    assert len(times) == 1
    assert sorted(Path(name).name for name in videos) == sorted(
        name for pair in study.pairs for name in pair.videos
    )


def test_order_and_sides_are_a_participants_own_and_stay(address: str):
    people = [participant(address) for _ in range(24)]
    seen = [person("GET", "/trials").json["trials"] for person in people]
    assert [person("GET", "/trials").json["trials"] for person in people] == seen
    first_pairs = {tuple(sorted(trials[0]["videos"])) for trials in seen}
    assert len(first_pairs) == len(SCENES)  # each scene comes first for someone
    for pair in first_pairs:  # and each video is on either side for someone
        sides = [trial["videos"] for trials in seen for trial in trials]
        assert {tuple(side) for side in sides if tuple(sorted(side)) == pair} == {
            pair,
            pair[::-1],
        }


def test_an_answer_is_kept_for_the_method_that_was_shown(address: str, study: Study):
    client = participant(address)
    videos = [1, 2, 1]
    for number, video in enumerate(videos):
        assert send(client, number, "creative", video) == 200
    trials = client("GET", "/trials").json["trials"]
    assert [trial["answers"] for trial in trials] == [{"creative": video} for video in videos]
    by_scene = {answer.scene: answer for answer in read_answers(Answers(study).path, study)}
    assert set(by_scene) == set(SCENES)
    for pair in study.pairs:
        found = by_scene[pair.scene]
        (trial,) = [t for t in trials if pair.videos[0] in {Path(v).name for v in t["videos"]}]
        video = trial["answers"]["creative"]
        assert Path(trial["videos"][video - 1]).name == pair.videos[found.chosen]
        assert Path(trial["videos"][0]).name == pair.videos[found.first]
        assert found.question == "creative"


def test_a_later_answer_replaces_the_earlier_one_of_its_participant(address: str, study: Study):
    anna, ben = participant(address), participant(address)
    assert send(anna, 0, "preferred", 1) == send(ben, 0, "preferred", 1) == 200
    assert send(anna, 0, "preferred", 2) == 200
    assert anna("GET", "/trials").json["trials"][0]["answers"] == {"preferred": 2}
    assert ben("GET", "/trials").json["trials"][0]["answers"] == {"preferred": 1}
    assert len(read_answers(Answers(study).path, study)) == 2


def test_answers_survive_a_restart_of_the_server(study: Study):
    with serving(make_study_app(study, Answers(study), host="127.0.0.1")) as first:
        client = participant(first)
        assert send(client, 1, "realistic", 2) == 200
        before = client("GET", "/trials").json
    with serving(make_study_app(study, Answers(study), host="127.0.0.1")) as second:
        client.address = second
        assert client("GET", "/trials").json == before


def test_someone_else_on_the_same_device_begins_anew(address: str):
    client = participant(address)
    assert send(client, 0, "realistic", 1) == 200
    assert client("POST", "/participants", {}).status == 200
    assert all(trial["answers"] == {} for trial in client("GET", "/trials").json["trials"])


WRONG = [
    (3, "realistic", 1),
    (-1, "realistic", 1),
    (True, "realistic", 1),
    (0.0, "realistic", 1),
    ("0", "realistic", 1),
    (None, "realistic", 1),
    (10**30, "realistic", 1),
    (0, "beautiful", 1),
    (0, ["realistic"], 1),
    (0, None, 1),
    (0, "realistic", 0),
    (0, "realistic", 3),
    (0, "realistic", True),
    (0, "realistic", "1"),
    (0, "realistic'; DROP TABLE answers; --", 1),
]


def test_what_is_no_answer_is_refused_and_not_kept(address: str, study: Study):
    client = participant(address)
    for trial, question, video in WRONG:
        assert send(client, trial, question, video) == 422, (trial, question, video)
    assert read_answers(Answers(study).path, study) == []


def test_other_bodies_are_refused(address: str, study: Study):
    client = participant(address)
    content = {"trial": 0, "question": "realistic", "video": 1}
    for body in ([], {}, [content], {**content, "participant": "0" * 64}, {"trial": 0}):
        assert client("POST", "/answers", body).status == 422
    kind = "application/json"
    assert client("POST", "/answers", b"{", content_type=kind).status == 422
    assert client("POST", "/answers", b"[" * 10_000, content_type=kind).status == 422
    assert client("POST", "/answers", bytes(MAX_JSON_BYTES + 1), content_type=kind).status == 413
    assert client("POST", "/answers", json.dumps(content).encode()).status == 415
    assert client("GET", "/answers").status == 405
    assert read_answers(Answers(study).path, study) == []


def test_pages_of_other_sites_and_strange_cookies_are_refused(address: str, study: Study):
    client = participant(address)
    content = {"trial": 0, "question": "realistic", "video": 1}
    for path in ("/answers", "/participants"):
        assert client("POST", path, content, origin="http://evil.example").status == 403
        assert client("POST", path, content, origin=None).status == 403
    assert client("GET", "/trials", host="evil.example").status == 403
    for cookie in ("", "zeronvs_participant=x", "zeronvs_participant=" + "é" * 43):
        client.cookie = cookie.encode("utf-8").decode("latin-1")
        assert client("GET", "/trials").status == 401
        assert client("POST", "/answers", content).status == 401
    assert read_answers(Answers(study).path, study) == []


PATHS = (
    "/videos/..%2f..%2fsecret.mp4",
    "/videos/../../secret.mp4",
    "/videos/%2e%2e/secret.mp4",
    "/videos/..%2fanswers.sqlite",
    "/videos/..%2fstudy.json",
    "/videos/ffffffffffffffff.mp4",
    "/videos/0000000000000000.mp4%00",
    "/videos/",
    "/study.json",
    "/answers.sqlite",
    "/page/study.html/../../study.json",
    "/page/photo.js",
    "/docs",
)


def test_only_the_videos_and_the_page_are_served(address: str):
    client = participant(address)
    for path in PATHS:
        answer = client("GET", path)
        assert answer.status == 404, path
        assert b"secret" not in answer.content


def test_a_video_that_is_a_link_out_of_the_study_is_missing(address: str, study: Study):
    path = study.video(study.pairs[0].videos[0])
    path.unlink()
    path.symlink_to(study.folder.parent / "secret.mp4")
    assert participant(address)("GET", f"/videos/{path.name}").status == 404


def test_a_part_of_a_video_can_be_asked_for(address: str, study: Study):
    # Safari plays nothing from a server that cannot do this.
    path = study.video(study.pairs[0].videos[0])
    answer = participant(address)("GET", f"/videos/{path.name}", range="bytes=0-1")
    assert (answer.status, answer.content) == (206, path.read_bytes()[:2])


def test_a_locked_or_spoilt_file_of_answers_gives_one_line(address, study, monkeypatch):
    monkeypatch.setattr("zeronvs.evaluation.study_answers.WAIT_S", 0.1)
    client = participant(address)
    lock = sqlite3.connect(Answers(study).path)
    lock.execute("BEGIN EXCLUSIVE")
    answer = client("POST", "/answers", {"trial": 0, "question": "realistic", "video": 1})
    assert answer.status == 422
    assert "locked" in answer.json["error"]
    lock.rollback()
    lock.close()
    assert send(client, 0, "realistic", 1) == 200
    assert set(QUESTIONS) == {"realistic", "creative", "preferred"}
