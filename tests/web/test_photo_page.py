"""The photo page without a browser: two visitors, large, broken and hostile uploads, a restart."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import LIMITS, photo_pixels
from loopback import Client, wait_for
from PIL import Image

from zeronvs._core.files import read_json
from zeronvs.web.photo_page import clean_title

BINARY = "application/octet-stream"


def encoded(kind: str = "PNG", pixels: np.ndarray | None = None, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo_pixels() if pixels is None else pixels).save(file, kind, **options)
    return file.getvalue()


def send(client: Client, content: bytes | None = None, title: str = "photo.png"):
    content = encoded() if content is None else content
    return client("POST", f"/jobs?title={title}", content, content_type=BINARY)


def ended(client: Client, job_id: str) -> dict:
    """Return a job when nothing is done about it any more."""

    def job() -> dict:
        return client("GET", f"/jobs/{job_id}").json

    wait_for(lambda: job()["state"] not in ("estimating", "queued", "running"))
    return job()


@pytest.fixture(scope="module")
def anna(address: str) -> Client:
    client = Client(address)
    client("GET", "/")
    return client


@pytest.fixture(scope="module")
def scene(anna: Client) -> str:
    """Return the id of a finished scene of the visitor anna."""
    job_id = send(anna, title="caf%C3%A9.png").json["id"]
    assert ended(anna, job_id)["state"] == "ready"
    assert anna("POST", f"/jobs/{job_id}/start", {"fov_deg": 40}).status == 202
    found = ended(anna, job_id)
    assert (found["state"], found["message"]) == ("done", None)
    return job_id


# ---- the way of a photograph


def test_a_photograph_is_estimated_and_its_files_show_it(new_visitor):
    client = new_visitor()
    job = ended(client, send(client).json["id"])
    assert (job["state"], job["title"]) == ("ready", "photo")
    estimate = job["estimate"]
    assert estimate["fov_deg"]["source"]
    assert 0 < estimate["scene_scale"]["value"]
    assert (estimate["width_px"], estimate["height_px"]) == (96, 72)
    assert job["files"] == ["photo.jpg", "depth.png", "first_look.png"]
    sizes = {}
    for name in job["files"]:
        answer = client("GET", f"/jobs/{job['id']}/files/{name}")
        with Image.open(io.BytesIO(answer.content)) as image:
            sizes[name] = image.size
    assert sizes == {"photo.jpg": (96, 72), "depth.png": (96, 72), "first_look.png": (288, 72)}


def test_the_scene_is_made_with_the_given_numbers_and_can_be_looked_at(anna, scene, jobs):
    settings = read_json(jobs.folder / "jobs" / scene / "scene" / "run.json")["estimates"]
    assert settings["fov_y_rad"]["source"] == "given"
    assert settings["fov_y_rad"]["value"] == pytest.approx(np.radians(40))
    assert settings["elevation_rad"]["source"] != "given"
    page = anna("GET", f"/scenes/{scene}/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "café" in page.content.decode()
    assert anna("GET", f"/scenes/{scene}/views/0.png").content.startswith(b"\x89PNG")
    assert anna("GET", f"/jobs/{scene}/files/scene/views.mp4").content[4:8] == b"ftyp"


def test_everything_can_be_downloaded(anna: Client, scene: str, jobs):
    answer = anna("GET", f"/jobs/{scene}/scene.zip")
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''caf%C3%A9.zip"
    folder = jobs.folder / "jobs" / scene / "scene"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        for name in ("scene.html", "scene/scene.ply", "views.mp4", "cameras/transforms.json"):
            assert archive.read(f"scene/{name}") == (folder / name).read_bytes()
    files = [path for path in folder.rglob("*") if path.is_file() and path.name[0] != "."]
    assert len(names) == len(files)
    assert not any(".lock" in name for name in names)


def test_a_video_of_a_path_is_rendered_for_its_visitor(anna: Client, scene: str):
    assert anna("POST", f"/scenes/{scene}/renders/lemniscate").status == 202
    address = f"/scenes/{scene}/renders/lemniscate"
    wait_for(lambda: anna("GET", address).json["state"] not in ("waiting", "running"))
    assert anna("GET", address).json["state"] == "done"
    assert anna("GET", f"{address}.mp4").content[4:8] == b"ftyp"


def test_a_deleted_scene_is_gone_with_all_its_files(new_visitor, jobs):
    client = new_visitor()
    job_id = send(client).json["id"]
    ended(client, job_id)
    assert client("DELETE", f"/jobs/{job_id}").status == 200
    assert client("GET", f"/jobs/{job_id}").status == 404
    assert client("GET", "/jobs").json["jobs"] == []
    assert not (jobs.folder / "jobs" / job_id).exists()


def test_a_scene_is_cancelled(new_visitor):
    client = new_visitor()
    job_id = send(client).json["id"]
    ended(client, job_id)
    client("POST", f"/jobs/{job_id}/start", {})
    assert client("POST", f"/jobs/{job_id}/cancel").json["state"] == "cancelled"
    assert client("GET", f"/jobs/{job_id}/scene.zip").status == 404


# ---- two visitors


def test_nothing_of_a_visitor_reaches_another(new_visitor, scene: str, jobs):
    other = new_visitor()
    assert other("GET", "/jobs").json["jobs"] == []
    for method, path in [
        ("GET", f"/jobs/{scene}"),
        ("GET", f"/jobs/{scene}/files/photo.jpg"),
        ("GET", f"/jobs/{scene}/files/scene/views.mp4"),
        ("GET", f"/jobs/{scene}/scene.zip"),
        ("GET", f"/scenes/{scene}/"),
        ("GET", f"/scenes/{scene}/views/0.png"),
        ("GET", f"/scenes/{scene}/paths"),
        ("GET", f"/scenes/{scene}/renders/lemniscate.mp4"),
        ("POST", f"/scenes/{scene}/renders/orbit"),
        ("POST", f"/jobs/{scene}/cancel"),
        ("DELETE", f"/jobs/{scene}"),
    ]:
        assert other(method, path).json == {"error": "there is no such scene"}, path
    assert other("POST", f"/jobs/{scene}/start", {}).status == 404
    assert other("POST", f"/scenes/{scene}/paths", {}).status == 404
    assert (jobs.folder / "jobs" / scene / "look.html").is_file()


@pytest.mark.parametrize("cookie", [None, "zeronvs_visitor=", "zeronvs_visitor=a", "x=y"])
def test_without_a_cookie_there_is_nothing(address: str, scene: str, cookie):
    client = Client(address)
    client.cookie = cookie
    for method, path in [("GET", "/jobs"), ("GET", f"/jobs/{scene}"), ("GET", f"/scenes/{scene}/")]:
        assert client(method, path).status == 401
    assert send(client).status == 401


def test_the_cookie_is_unguessable_hidden_from_scripts_and_not_kept(
    address: str, jobs, new_visitor
):
    tokens = set()
    for _ in range(3):
        client = Client(address)
        cookie = client("GET", "/").headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        tokens.add(client.cookie.split("=")[1])
        assert "set-cookie" not in client("GET", "/").headers
    assert len(tokens) == 3
    assert all(len(token) == 43 for token in tokens)
    client = new_visitor()
    ended(client, send(client).json["id"])
    records = [path.read_text(encoding="utf-8") for path in jobs.folder.rglob("job.json")]
    assert records
    assert not any(client.cookie.split("=")[1] in record for record in records)


# ---- large, broken and hostile uploads


def test_a_broken_photograph_fails_and_says_why(new_visitor):
    client = new_visitor()
    job = ended(client, send(client, encoded()[:-40]).json["id"])
    assert job["state"] == "failed"
    assert "cut short" in job["message"]
    assert client("POST", f"/jobs/{job['id']}/start", {}).status == 422


@pytest.mark.parametrize(
    "content",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"GIF89a" + bytes(100),
        b"II*\0" + bytes(100),
        b"PK\x03\x04" + bytes(100),
    ],
)
def test_what_no_camera_makes_meets_no_decoder(new_visitor, content: bytes, jobs):
    client = new_visitor()
    before = len(list((jobs.folder / "jobs").iterdir()))
    answer = send(client, content)
    assert answer.status == 415
    assert "JPEG, PNG, WebP or HEIC" in answer.json["error"]
    assert len(list((jobs.folder / "jobs").iterdir())) == before


def test_a_file_that_is_too_large_is_refused_whether_it_says_so_or_not(new_visitor, jobs):
    client = new_visitor()
    large = encoded("JPEG").ljust(LIMITS.upload_bytes + 1, b"\0")
    answer = send(client, large)
    assert answer.status == 413
    assert answer.json["error"] == "this photograph is larger than 0.3 MB"
    pieces = (large[k : k + 50_000] for k in range(0, len(large), 50_000))
    answer = client("POST", "/jobs", pieces, content_type=BINARY)  # chunked: without its length
    assert answer.status == 413
    assert client("GET", "/jobs").json["jobs"] == []
    assert send(client, b"").json["error"] == "no photograph was sent"


@pytest.mark.parametrize("kind", ["image/png", "multipart/form-data; boundary=x", "text/plain"])
def test_a_form_of_another_site_cannot_send_a_photograph(new_visitor, kind: str):
    client = new_visitor()
    assert client("POST", "/jobs", encoded(), content_type=kind).status == 415
    evil = "http://evil.example"
    assert client("POST", "/jobs", encoded(), content_type=BINARY, origin=evil).status == 403


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("My photo.JPG", "My photo"),
        ("../../etc/passwd", "passwd"),
        ("D:\\pictures\\a.b.png", "a.b"),
        ("<img src=x onerror=alert(1)>.png", "<img src=x onerror=alert(1)>"),
        ("a\0b\nc\u202egnp.exe", "abcgnp"),
        ("", "A scene"),
        ("...", ".."),
        ("x" * 500, "x" * 80),
    ],
)
def test_the_name_of_a_file_becomes_a_title_and_nothing_else(name: str, title: str):
    assert clean_title(name) == title


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"fov_deg": 200}, "between 5 and 150"),
        ({"elevation_deg": -90}, "between -89 and 89"),
        ({"scene_scale": 0}, "between 0.01 and 100"),
        ({"fov_deg": "50"}, "must be a number"),
        ({"fov_deg": True}, "must be a number"),
        ({"out": "elsewhere"}, "the settings are"),
        ([], "the settings are"),
    ],
)
def test_settings_that_no_camera_has_are_refused(anna: Client, scene: str, settings, says):
    answer = anna("POST", f"/jobs/{scene}/start", settings)
    assert answer.status == 422
    assert says in answer.json["error"]
    assert anna("GET", f"/jobs/{scene}").json["state"] == "done"


NAMES = ("job.json", "../job.json", "photo", "..%2f..%2fsettings.json", "scene/run.json", "")


@pytest.mark.parametrize("name", NAMES)
def test_only_what_the_page_shows_is_served(anna: Client, scene: str, name: str):
    answer = anna("GET", f"/jobs/{scene}/files/{name}")
    assert answer.status == 404
    assert list(answer.json) == ["error"]


@pytest.mark.parametrize("name", ["../photo_page.py", "look.js", "..%2fphoto_page.py", "photo.py"])
def test_only_the_parts_of_the_page_are_served(anna: Client, name: str):
    assert anna("GET", f"/page/{name}").status == 404


def test_the_page_needs_nothing_from_elsewhere(anna: Client):
    text = anna("GET", "/").content.decode()
    for name in ("photo.css", "photo.js"):
        part = anna("GET", f"/page/{name}")
        assert part.status == 200
        text += part.content.decode()
    assert not re.search(r"https?:", text)
    assert not re.search(r"<[^>]+\son\w+=", text)  # no script in attributes


# ---- a restart


def start_server(out: Path) -> tuple[subprocess.Popen, str]:
    program = [sys.executable, str(Path(__file__).with_name("photo_process.py")), str(out)]
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent), *sys.path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    server = subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=environment)
    assert server.stdout is not None
    return server, json.loads(server.stdout.readline())


def test_a_server_killed_in_the_midst_of_a_scene_finishes_it_after_a_restart(tmp_path: Path):
    server, address = start_server(tmp_path / "out")
    client = Client(address)
    client("GET", "/")
    job_id = send(client).json["id"]
    assert ended(client, job_id)["state"] == "ready"
    client("POST", f"/jobs/{job_id}/start", {})
    record = tmp_path / "out" / "jobs" / job_id / "scene" / "run.json"
    wait_for(record.exists)
    server.send_signal(signal.SIGKILL)
    server.wait()
    server.stdout.close()
    assert read_json(record)["status"] == "running"

    server, address = start_server(tmp_path / "out")
    again = Client(address)
    again.cookie = client.cookie
    job = ended(again, job_id)
    assert (job["state"], job["message"]) == ("done", None)
    assert read_json(record)["status"] == "complete"
    assert again("GET", f"/scenes/{job_id}/").status == 200
    server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=20) == 130
    server.stdout.close()
