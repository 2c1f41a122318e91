"""Arguments: what cannot be is refused in one line before any work begins."""

import io
import math
import sys
from pathlib import Path

import pytest

from zeronvs._core.errors import InputError
from zeronvs.cli.arguments import check_anchors, check_counts, check_device, check_new_folder, parse
from zeronvs.cli.scene import SceneArguments
from zeronvs.cli.views import ViewsArguments


def test_the_shortest_scene_command_needs_a_photo_and_a_folder():
    arguments = parse(SceneArguments, ["photo.jpg", "-o", "out"], "scene")
    assert (arguments.photo, arguments.out) == (Path("photo.jpg"), Path("out"))
    assert (arguments.preset, arguments.anchors, arguments.resume) == (None, None, False)


def test_every_flag_of_a_scene_is_understood():
    words = "p.jpg --out o --preset paper --model m --anchors 0 --seed 3 --device cpu --resume"
    words += " --fov-deg -20 --elevation-deg 10.5 --scene-scale 0.5 --guidance-scale 9 --steps 5"
    arguments = parse(SceneArguments, [*words.split(), "--dry-run"], "scene")
    assert arguments.fov_deg == -20
    assert arguments.elevation_deg == 10.5
    assert arguments.anchors == 0
    assert arguments.dry_run


def test_views_leave_the_sampler_to_the_model_where_nothing_is_said():
    arguments = parse(ViewsArguments, ["p.jpg", "-o", "out"], "views")
    assert (arguments.steps, arguments.eta, arguments.guidance_scale) == (None, None, None)


@pytest.mark.parametrize(("columns", "encoding"), [("40", "utf-8"), ("200", "cp1252")])
@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "missing from zeronvs scene: PHOTO_OR_FOLDER; -o PATH, --out PATH"),
        ("p.jpg", "missing from zeronvs scene: -o PATH, --out PATH"),
        ("p.jpg -o", "missing value for argument '-o/--out'. Expected 1 values"),
        ("p.jpg -o o --steps many", "--steps is 'many'; it must be a whole number"),
        ("p.jpg -o o --fov-deg wide", "--fov-deg is 'wide'; it must be a number"),
        ("p.jpg -o o --path north", "invalid choice 'north' for argument '--path'. Expected one"),
        ("p.jpg -o o q.jpg", "unrecognized options: q.jpg"),
        ("p.jpg -o o --anchor 3", "unrecognized options: --anchor, 3. Perhaps you meant"),
    ],
)
def test_arguments_that_do_not_fit_are_one_line_in_any_terminal(
    words: str, says: str, columns: str, encoding: str, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    with pytest.raises(InputError) as caught:
        parse(SceneArguments, words.split(), "scene")
    assert str(caught.value).startswith(says)
    assert str(caught.value).endswith(". See: zeronvs scene --help")
    assert not set(str(caught.value)) & set("│─╭╰\n\x1b")
    assert capsys.readouterr().err == ""


def test_choices_and_similar_flags_are_listed():
    for words, named in (
        ("--path north", ["'orbit'", "'around'"]),
        ("--depth-modl a --devise cpu", ["similar to --devise: --device DEVICE", "--depth-model"]),
    ):
        with pytest.raises(InputError) as caught:
            parse(SceneArguments, ["p.jpg", "-o", "o", *words.split()], "scene")
        assert all(name in str(caught.value) for name in named)
        assert "best one here" not in str(caught.value)  # of the help texts


def test_counts_begin_at_one():
    check_counts(frames=1, steps=None)
    with pytest.raises(InputError, match="--batch-size is 0"):
        check_counts(batch_size=0)


def test_no_anchors_are_allowed_and_fewer_are_not():
    check_anchors(0)
    check_anchors(None)
    with pytest.raises(InputError, match="--anchors is -1"):
        check_anchors(-1)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "", "meta7"])
def test_a_device_that_is_not_there_is_refused(device: str):
    with pytest.raises(InputError, match="no such device"):
        check_device(device)


def test_the_processor_is_always_there():
    check_device("cpu")
    check_device(None)


def test_a_new_and_an_empty_folder_are_fine_and_nothing_is_made(tmp_path: Path):
    check_new_folder(tmp_path, resume=False)
    check_new_folder(tmp_path / "a" / "b", resume=False)
    assert list(tmp_path.iterdir()) == []


def test_two_runs_are_not_mixed(tmp_path: Path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match="--resume"):
        check_new_folder(tmp_path, resume=False)
    check_new_folder(tmp_path, resume=True)


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="other files"):
        check_new_folder(tmp_path, resume=False)


@pytest.mark.parametrize("inside", ["", "inside"])
def test_a_file_is_no_folder(tmp_path: Path, inside: str):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        check_new_folder(tmp_path / "file" / inside, resume=False)


def test_nothing_is_not_a_number_of_degrees():
    arguments = parse(SceneArguments, ["p", "-o", "o", "--fov-deg", "nan"], "scene")
    assert arguments.fov_deg is not None
    assert math.isnan(arguments.fov_deg)
