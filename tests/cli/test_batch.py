"""A folder of photographs: one folder each, failures apart, one page that opens offline."""

import base64
import io
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from PIL import Image

from zeronvs.cli.batch import find_photos
from zeronvs.recipes import summary

ODD = "a&b <c> #1%.png"


class Page(HTMLParser):
    """Links, images and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.images, self.text = [], [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links += [values["href"]] if "href" in values else []
        self.images += [values["src"]] if "src" in values else []

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in (ODD, "good.png", "good.JPG", "deeper/not-searched.png"):
        values = rng.integers(0, 255, (80, 96, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / name)
    (folder / "broken.png").write_text("hello")
    (folder / "notes.txt").write_text("hello")
    return folder


def check_page(page: Page, out: Path, thumbnails: int) -> None:
    assert page.links
    for link in page.links:
        assert not urlsplit(link).scheme
        assert not urlsplit(link).fragment
        assert (out / unquote(link)).is_file(), link
    assert len(page.images) == thumbnails
    for image in page.images:
        data = image.removeprefix("data:image/jpeg;base64,")
        with Image.open(io.BytesIO(base64.b64decode(data))) as thumbnail:
            assert max(thumbnail.size) <= summary.THUMBNAIL_PX


def test_scenes_of_a_folder_fail_apart_resume_and_are_summed_up(
    zeronvs, photos, tmp_path, tiny_presets, capsys
):
    out = tmp_path / "out"
    words = ("scene", photos, "-o", out, "--path", "orbit", "--device", "cpu")
    # The compiled loops of the first scene change the number of torch's threads in this process,
    # and with it the last bits of depth, by which a run recognises its photograph.
    assert zeronvs("scene", photos / "good.png", "-o", tmp_path / "first", *words[4:]) == 0
    capsys.readouterr()
    assert zeronvs(*words) == 1
    printed = capsys.readouterr()
    assert "1 files in" in printed.out
    assert "[4/4] good.png" in printed.out
    lines = printed.err.splitlines()
    assert [line for line in lines if "error" in line] == [
        "zeronvs: error: broken.png: broken.png is not an image that can be read (tried every "
        "format of Pillow). Give a JPEG, PNG, WebP or TIFF file.",
        "zeronvs: error: 1 of 4 photographs failed: broken.png",
    ]
    made = {ODD, "good.png", "good.JPG"}
    assert {path.name for path in out.iterdir() if path.is_dir()} == made
    for name in made:
        assert (out / name / "scene.html").is_file()
    page = Page(out / "index.html")
    check_page(page, out, thumbnails=3)
    assert sum(link.endswith("scene.html") for link in page.links) == 6  # image and name
    assert "4 of 4 photographs done, 1 of them failed." in page.text
    assert ODD in page.text
    assert "is not an image that can be read" in page.text
    assert "no lens data in the file" in page.text or "averaged with the default" in page.text

    # Again: refused without --resume; with it, what is done is kept and what failed is tried.
    assert zeronvs(*words) == 2
    assert "add --resume" in capsys.readouterr().err
    before = {path: path.stat().st_mtime_ns for path in out.rglob("scene.ply")}
    (photos / "broken.png").write_bytes((photos / "good.png").read_bytes())
    assert zeronvs(*words, "--resume") == 0, capsys.readouterr().err
    assert capsys.readouterr().out.count("This run was complete already.") == 3
    assert {path: path.stat().st_mtime_ns for path in before} == before
    check_page(Page(out / "index.html"), out, thumbnails=4)
    assert "0 of them failed" in Page(out / "index.html").text


def test_estimates_of_a_folder_are_printed_and_written_on_request(
    zeronvs, photos, tmp_path, capsys, monkeypatch
):
    words = ("estimate", photos, "--depth-model", "none", "--fov-deg", 60)
    assert zeronvs(*words) == 1
    assert capsys.readouterr().out.count("fov_deg") == 3
    monkeypatch.chdir(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]
    (photos / "broken.png").unlink()
    assert zeronvs(*words, "-o", "out") == 0
    page = Page(tmp_path / "out" / "index.html")
    check_page(page, tmp_path / "out", thumbnails=3)
    assert page.text.count("60.0 ± 0.0°") == 3
    assert sum(link.endswith("overlay.png") for link in page.links) == 3


def test_a_stopped_batch_has_a_page_of_what_is_done(zeronvs, photos, tmp_path, capsys, monkeypatch):
    from zeronvs.cli import estimate

    make, seen = estimate._make, []

    def stop_at_the_second(*arguments):
        if seen:
            raise KeyboardInterrupt
        seen.append(arguments)
        return make(*arguments)

    monkeypatch.setattr(estimate, "_make", stop_at_the_second)
    words = ("estimate", photos, "--depth-model", "none", "-o", tmp_path / "out")
    assert zeronvs(*words) == 130
    assert "1 of 4 photographs done" in Page(tmp_path / "out" / "index.html").text


def test_a_bug_in_one_photograph_keeps_its_traceback_and_stops_no_other(
    zeronvs, photos, tmp_path, capsys, monkeypatch
):
    from zeronvs.cli import estimate

    make = estimate._make

    def fail_once(arguments, estimators):
        if arguments.photo.name == ODD:
            raise ZeroDivisionError("a bug")
        return make(arguments, estimators)

    monkeypatch.setattr(estimate, "_make", fail_once)
    (photos / "broken.png").unlink()
    assert zeronvs("estimate", photos, "--depth-model", "none") == 1
    printed = capsys.readouterr()
    assert "Traceback" in printed.err
    assert f"{ODD}: ZeroDivisionError: a bug" in printed.err
    assert printed.out.count("fov_deg") == 2


def test_a_dry_run_of_a_folder_writes_nothing(zeronvs, photos, tmp_path, tiny_presets, capsys):
    (photos / "broken.png").unlink()
    assert zeronvs("scene", photos, "-o", tmp_path / "out", "--dry-run", "--device", "cpu") == 0
    assert capsys.readouterr().out.count("fov_deg") == 3
    assert not (tmp_path / "out").exists()


def test_folders_that_cannot_be_a_batch_are_refused_in_one_line(zeronvs, photos, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert zeronvs("scene", tmp_path / "empty", "-o", tmp_path / "out") == 2
    assert "has no photograph" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    for flag in ((), ("--resume",)):
        assert zeronvs("scene", photos, "-o", tmp_path / "other", *flag) == 2
        assert "contains other files" in capsys.readouterr().err
    assert zeronvs("views", photos, "-o", tmp_path / "views") == 2
    assert "is a folder; give one photograph of it" in capsys.readouterr().err
    words = ("--depth-model", tmp_path / "nowhere")
    assert zeronvs("scene", photos, "-o", tmp_path / "out", *words) == 2
    assert "--depth-model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_photographs_are_known_by_their_suffixes_and_hidden_files_are_left_out(tmp_path, capsys):
    for name in ("b.webp", "a.HEIC", ".hidden.png", "raw.nef", "README"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    assert [photo.name for photo in find_photos(tmp_path)] == ["a.HEIC", "b.webp"]
    assert "2 files" in capsys.readouterr().out


def test_the_page_opens_from_disk_without_a_network(zeronvs, photos, tmp_path, browser):
    assert zeronvs("estimate", photos, "--depth-model", "none", "-o", tmp_path / "out") == 1
    browser.call("Page.navigate", url=(tmp_path / "out" / "index.html").as_uri())
    browser.wait_for("document.readyState === 'complete' && document.images.length === 3")
    widths = browser.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert widths == [summary.THUMBNAIL_PX] * 3
