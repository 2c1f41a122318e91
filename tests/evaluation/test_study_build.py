"""A study from run folders: matched by photograph, the same cameras on both sides, resumed."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from ball_runs import BLUE, RED, write_run

from zeronvs._core.errors import InputError
from zeronvs.evaluation.study import Study, read_study
from zeronvs.evaluation.study_build import StudyConfig, build_study, find_runs
from zeronvs.exports.export import render_frames
from zeronvs.formats.video import write_video
from zeronvs.recipes.run_folder import open_run, path_cameras

CONFIG = StudyConfig(frames=5, size_px=48)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Return the folders of two methods, with two photographs in both and one in each."""
    for method, colour, own in (("anchored", RED, "lamp"), ("plain", BLUE, "moon")):
        for title in ("cat", "tea", own):
            write_run(tmp_path / method / f"{title}.png", title, colour)
    return tmp_path / "anchored", tmp_path / "plain"


def frames_of(path: Path) -> torch.Tensor:
    with av.open(str(path)) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2) / 255


def test_both_sides_show_their_own_scene_from_the_same_cameras(runs, tmp_path: Path):
    built = build_study(*runs, tmp_path / "study", CONFIG)
    study = read_study(tmp_path / "study")
    assert study == built.study
    assert [pair.scene for pair in study.pairs] == ["cat", "tea"]
    assert study.methods == ("anchored", "plain")
    assert built.left_out == (f"lamp: only in {runs[0]}", f"moon: only in {runs[1]}")
    one, two = open_run(runs[0] / "tea.png"), open_run(runs[1] / "tea.png")
    cameras = path_cameras("orbit", one.input_camera, 5, 48, one.orbit_distances)
    for run, name in zip((one, two), study.pairs[1].videos, strict=True):
        truth, _ = render_frames(run.scene, cameras)
        found = frames_of(study.video(name))
        assert found.shape == truth.shape == (5, 3, 48, 48)
        assert float((found - truth).abs().mean()) < 0.02
        assert float((found.flip(0) - truth).abs().mean()) > 0.02
        circle, _ = render_frames(run.scene, path_cameras("orbit", one.input_camera, 5, 48))
        off = [float((found - images)[2].abs().mean()) for images in (truth, circle)]
        assert off[0] < 0.5 * off[1]  # the run's own distances, not a circle


def test_names_of_videos_tell_nothing_and_are_new_in_each_study(runs, tmp_path: Path):
    studies = [build_study(*runs, tmp_path / name, CONFIG).study for name in ("one", "two")]
    names = [name for study in studies for pair in study.pairs for name in pair.videos]
    assert len(set(names)) == 8
    assert studies[0].id != studies[1].id
    for study in studies:
        assert "anchored" not in "".join(path.name for path in (study.folder / "videos").iterdir())


def test_a_stopped_build_is_resumed_and_keeps_what_is_there(runs, tmp_path: Path):
    study = build_study(*runs, tmp_path / "study", CONFIG).study
    lost, kept = (study.video(name) for name in study.pairs[0].videos)
    content = lost.read_bytes()
    lost.unlink()
    kept.write_bytes(b"kept")
    (study.folder / "videos" / ".half.0123abcd.part.mp4").write_bytes(b"half")
    again = build_study(*runs, tmp_path / "study", CONFIG).study
    assert again == study
    assert lost.read_bytes() == content
    assert kept.read_bytes() == b"kept"
    assert len(list((study.folder / "videos").iterdir())) == 4


def test_another_study_or_other_files_are_not_overwritten(runs, tmp_path: Path):
    study = build_study(*runs, tmp_path / "study", CONFIG).study
    with pytest.raises(InputError, match=r"another study \(settings.frames: 5, now 6\)"):
        build_study(*runs, study.folder, replace(CONFIG, frames=6))
    with pytest.raises(InputError, match=r"another study \(methods"):
        build_study(*runs, study.folder, CONFIG, methods=("a", "b"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(InputError, match="other files"):
        build_study(*runs, tmp_path / "mine", CONFIG)
    assert read_study(study.folder) == study


def test_single_runs_of_one_photograph_are_a_study_of_one_pair(runs, tmp_path: Path):
    singles = runs[0] / "cat.png", runs[1] / "cat.png"
    with pytest.raises(InputError, match=r"both methods are named 'cat\.png'"):
        build_study(*singles, tmp_path / "study", CONFIG)
    study = build_study(*singles, tmp_path / "study", CONFIG, methods=("a", "b")).study
    assert [pair.scene for pair in study.pairs] == ["cat"]


def test_folders_without_a_common_photograph_are_refused(runs, tmp_path: Path):
    with pytest.raises(InputError, match=r"no photograph is in both folders; .* has lamp"):
        build_study(runs[0] / "lamp.png", runs[1], tmp_path / "study", CONFIG)
    assert not (tmp_path / "study").exists()
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="zeronvs scene"):
            find_runs(folder)


def test_two_runs_of_one_photograph_are_ambiguous(runs):
    write_run(runs[0] / "again", "tea", RED)
    with pytest.raises(InputError, match="both of a photograph named 'tea'"):
        find_runs(runs[0])


def one_pair(tmp_path: Path, **second) -> Study:
    write_run(tmp_path / "a", "tea", RED, size_px=(24, 32))
    write_run(tmp_path / "b", "tea", BLUE, **second)
    return build_study(tmp_path / "a", tmp_path / "b", tmp_path / "study", CONFIG).study


def test_where_one_run_is_of_the_central_square_both_are_shown_square(tmp_path: Path):
    study = one_pair(tmp_path, size_px=(48, 48))
    for name in study.pairs[0].videos:
        assert frames_of(study.video(name)).shape == (5, 3, 48, 48)


@pytest.mark.parametrize("other", [{"fov_y_rad": 0.9}, {"elevation_rad": 0.4}])
def test_runs_with_different_cameras_are_refused(tmp_path: Path, other: dict):
    with pytest.raises(InputError, match="different cameras"):
        one_pair(tmp_path, **other)
    assert not (tmp_path / "study").exists()


# ---- videos that are there


def moving(count: int = 6, size_px: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size_px, size_px, generator=torch.Generator().manual_seed(count))


def test_videos_of_the_runs_are_taken_as_they_are(tmp_path: Path):
    for index, method in enumerate("ab"):  # of another program: no run.json
        write_video(tmp_path / method / "tea" / "orbit.mp4", moving() * (0.5 + index / 2))
    config = StudyConfig(video="orbit.mp4")
    study = build_study(tmp_path / "a", tmp_path / "b", tmp_path / "study", config).study
    assert study.settings == {"video": "orbit.mp4"}
    for method, name in zip("ab", study.pairs[0].videos, strict=True):
        source = tmp_path / method / "tea" / "orbit.mp4"
        assert torch.equal(frames_of(study.video(name)), frames_of(source))


@pytest.mark.parametrize("other", [moving(7), moving(6, 34)])
def test_videos_that_differ_in_length_or_size_are_refused(tmp_path: Path, other):
    write_video(tmp_path / "a" / "tea" / "orbit.mp4", moving())
    write_video(tmp_path / "b" / "tea" / "orbit.mp4", other)
    with pytest.raises(InputError, match="the videos of tea differ: 6 frames of 32x32 px"):
        build_study(
            tmp_path / "a", tmp_path / "b", tmp_path / "study", StudyConfig(video="orbit.mp4")
        )


def test_what_is_no_mp4_is_refused(tmp_path: Path):
    write_video(tmp_path / "a" / "tea" / "orbit.mp4", moving())
    playlist = tmp_path / "b" / "tea" / "orbit.mp4"
    playlist.parent.mkdir(parents=True)
    playlist.write_text(f"#EXTM3U\n#EXTINF:1,\n{tmp_path / 'a/tea/orbit.mp4'}\n", encoding="utf-8")
    with pytest.raises(InputError, match="no usable MP4"):
        build_study(
            tmp_path / "a", tmp_path / "b", tmp_path / "study", StudyConfig(video="orbit.mp4")
        )
