import json
import math

import pytest
import torch
from foreign_cameras import re10k_numbers
from foreign_files import write_camera_path
from hypothesis import given, settings
from hypothesis import strategies as st

from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import look_at
from zeronvs.cameras.trajectories import make_trajectory
from zeronvs.cameras.warp import project
from zeronvs.formats.transforms_json import (
    frame_camera,
    frame_lens,
    read_camera_path,
    read_frames,
    write_transforms,
)

EYE = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
PATH = {"render_height": 30, "render_width": 40, "camera_path": []}
TRANSFORMS = {"w": 40, "h": 30, "fl_x": 35.0, "frames": [{"transform_matrix": EYE}]}


def some_cameras(name="dolly-zoom-in", image_size_px=(30, 40)):
    pose = look_at(torch.tensor([1.0, 0.2, 0.4]))
    return make_trajectory(name, Camera.from_fov(pose, 0.9, image_size_px), 5)


def written(folder, content, name="cameras.json"):
    path = folder / name
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


def path_frame(**changes):
    return {"camera_to_world": [v for row in EYE for v in row], "fov": 50, "aspect": 1.3, **changes}


def far_pose(x):
    return [[1, 0, 0, x], *EYE[1:]]


def scaled_pose(scale):
    return [*[[scale * value for value in row] for row in EYE[:3]], EYE[3]]


def re10k_text(cameras):
    intrinsics, world_to_camera = re10k_numbers(cameras)
    lines = ["https://www.youtube.com/watch?v=abc"]
    for time, (lens, pose) in enumerate(zip(intrinsics, world_to_camera, strict=True)):
        numbers = [*lens.tolist(), 0.0, 0.0, *pose.flatten().tolist()]
        lines.append(" ".join([str(time * 33000), *(f"{number:.9f}" for number in numbers)]))
    return "\n".join(lines) + "\n"


def assert_same_cameras(ours, theirs):
    torch.testing.assert_close(ours.camera_to_world, theirs.camera_to_world, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.intrinsics_px, theirs.intrinsics_px, atol=1e-4, rtol=1e-5)
    assert ours.image_size_px == theirs.image_size_px


def test_a_path_of_nerfstudios_viewer_is_read(tmp_path):
    cameras = some_cameras()
    write_camera_path(tmp_path / "camera_path.json", cameras)
    assert_same_cameras(read_camera_path(tmp_path / "camera_path.json"), cameras)


def test_transforms_make_the_round_trip_with_any_lens(tmp_path):
    cameras = some_cameras().cropped(3, 5.5, 20, 21)
    write_transforms(
        tmp_path / "transforms.json", cameras, [tmp_path / f"{k}.png" for k in range(5)]
    )
    assert_same_cameras(read_camera_path(tmp_path / "transforms.json"), cameras)


@pytest.mark.parametrize("image_size_px", [(30, 40), (64, 64), (90, 60)])
def test_re10k_files_keep_the_vertical_field_of_view_and_square_pixels(tmp_path, image_size_px):
    cameras = some_cameras()
    path = written(tmp_path, re10k_text(cameras), "clip.txt")
    read = read_camera_path(path, image_size_px=image_size_px)
    assert read.image_size_px == image_size_px
    torch.testing.assert_close(read.fov_y_rad, cameras.fov_y_rad, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(read.intrinsics_px[:, 0, 0], read.intrinsics_px[:, 1, 1])
    torch.testing.assert_close(read.camera_to_world, cameras.camera_to_world, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("image_size_px", [(60, 80), (60, 60), (15, 40)])
def test_another_image_size_sees_the_same_point_at_the_same_height(tmp_path, image_size_px):
    cameras = some_cameras()
    write_transforms(tmp_path / "transforms.json", cameras, [tmp_path / "a.png"] * 5)
    read = read_camera_path(tmp_path / "transforms.json", image_size_px=image_size_px)
    points = torch.tensor([[0.05, 0.02, 0.1]]).expand(5, 1, 3)
    before, after = project(points, cameras)[0], project(points, read)[0]
    scale = image_size_px[0] / 30
    middle = torch.tensor([image_size_px[1] / 2, image_size_px[0] / 2])
    expected = middle + scale * (before - torch.tensor([20.0, 15.0]))
    torch.testing.assert_close(after, expected, atol=1e-3, rtol=1e-4)


def test_nested_poses_and_a_common_field_of_view_are_read_too(tmp_path):
    frames = [path_frame(camera_to_world=EYE), {"camera_to_world": EYE[:3]}]
    path = written(tmp_path, {**PATH, "default_fov": 60, "camera_path": frames})
    fov_deg = torch.rad2deg(read_camera_path(path).fov_y_rad)
    assert fov_deg.tolist() == pytest.approx([50, 60])


def test_fields_of_view_and_sizes_of_the_first_nerf_are_read(tmp_path):
    content = {"camera_angle_x": 0.8, "frames": [{"file_path": "r_0", "transform_matrix": EYE}]}
    path = written(tmp_path, content)
    with pytest.raises(InputError, match="no image size"):
        read_camera_path(path)
    camera = read_camera_path(path, image_size_px=(100, 200))
    assert camera.intrinsics_px[0, 0, 0].item() == pytest.approx(100 / math.tan(0.4))


def test_image_paths_of_strangers_are_never_opened(tmp_path):
    frames = [
        {"file_path": name, "transform_matrix": EYE, "depth_file_path": "/dev/zero"}
        for name in ("/etc/shadow", "../../outside.png", "\u0000", "//host/share.png")
    ]
    path = written(tmp_path, {**TRANSFORMS, "frames": frames})
    assert len(read_camera_path(path)) == 4


def test_frames_are_read_one_by_one_with_what_the_file_shares(tmp_path):
    lens = {"k1": 0.1, "k2": -0.02, "p1": 0.003, "k4": None}
    content = {**TRANSFORMS, **lens, "frames": [{"transform_matrix": EYE, "fl_x": 20}, 3, {}]}
    frames = read_frames(written(tmp_path, content))
    assert frame_camera(frames[0], "here").intrinsics_px[1, 1] == 20
    assert frame_lens(frames[0], "here").radial == (0.1, -0.02, 0.0)
    assert frame_lens(frames[0], "here").tangential == (0.003, 0.0)
    for bad in frames[1:]:
        with pytest.raises(InputError, match="here: "):
            frame_camera(bad, "here")


def test_a_path_saved_in_nerfstudios_normalised_world_is_brought_back(tmp_path):
    cameras = some_cameras()
    # nerfstudio rotates the world, moves it and scales it: x_viewer = scale * (rotation x + shift).
    rotation = look_at(torch.tensor([0.3, -1.0, 0.8]))[:3, :3]
    shift, scale = torch.tensor([0.4, -0.2, 0.9]), 1.7
    pose = cameras.camera_to_world.clone()
    pose[:, :3, :3] = rotation @ pose[:, :3, :3]
    pose[:, :3, 3] = scale * (pose[:, :3, 3] @ rotation.T + shift)
    in_viewer = Camera(pose, cameras.intrinsics_px, cameras.image_size_px)
    write_camera_path(tmp_path / "camera_path.json", in_viewer)
    transform = torch.cat([rotation, shift[:, None]], dim=1)
    similarity = {"transform": transform.tolist(), "scale": scale}
    written(tmp_path, similarity, "dataparser_transforms.json")
    notes: list[str] = []
    read = read_camera_path(tmp_path / "camera_path.json", notes=notes)
    assert_same_cameras(read, cameras)
    assert ["brought back" in note for note in notes] == [True]
    # transforms.json is in the world of the images, whatever lies beside it.
    write_transforms(tmp_path / "transforms.json", cameras, [tmp_path / "a.png"] * 5)
    assert_same_cameras(read_camera_path(tmp_path / "transforms.json"), cameras)


@pytest.mark.parametrize(
    "content", ["[]", {"scale": 1}, {"transform": EYE, "scale": 0}, {"transform": EYE}, "{"]
)
def test_a_broken_normalisation_of_a_path_is_named(tmp_path, content):
    write_camera_path(tmp_path / "camera_path.json", some_cameras())
    written(tmp_path, content, "dataparser_transforms.json")
    with pytest.raises(InputError, match=r"dataparser_transforms\.json"):
        read_camera_path(tmp_path / "camera_path.json")


def test_a_path_of_a_viewer_without_its_similarity_is_noted(tmp_path):
    path = tmp_path / "camera_path.json"
    write_camera_path(path, some_cameras())
    notes: list[str] = []
    read_camera_path(path, notes=notes)
    assert notes == []  # our own
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | {"keyframes": [{"fov": 50}]}), encoding="utf-8")
    read_camera_path(path, notes=notes)
    assert len(notes) == 1
    assert "dataparser_transforms.json beside it" in notes[0]


def test_a_byte_order_mark_is_read_over(tmp_path):
    for name, text in (
        ("clip.txt", re10k_text(some_cameras())),
        ("cameras.json", json.dumps(TRANSFORMS)),
    ):
        path = written(tmp_path, "\ufeff" + text, name)
        assert len(read_camera_path(path, image_size_px=(8, 8))) >= 1


def test_frames_of_different_sizes_need_one_to_agree_on(tmp_path):
    frames = [{"transform_matrix": EYE}, {"transform_matrix": EYE, "h": 60, "w": 20}]
    path = written(tmp_path, {**TRANSFORMS, "frames": frames})
    with pytest.raises(InputError, match="different sizes"):
        read_camera_path(path)
    assert len(read_camera_path(path, image_size_px=(32, 32))) == 2


BAD = {
    "empty": ("  ", "empty"),
    "cut": ('{"frames": [', "not valid JSON"),
    "deep": ("[" * 200_000, "not valid JSON"),
    "list": ("[1, 2]", "JSON list"),
    "no_cameras": ({"a": 1}, "neither"),
    "keyframes_only": ({"keyframes": []}, "export it again"),
    "no_frames": ({**PATH, "camera_path": []}, "at least one frame"),
    "frames_no_list": ({**TRANSFORMS, "frames": {"0": 1}}, "at least one frame"),
    "frame_no_object": ({**TRANSFORMS, "frames": [3]}, "should be an object"),
    "fisheye": ({**TRANSFORMS, "camera_model": "OPENCV_FISHEYE"}, "not supported"),
    "equirect": ({**PATH, "camera_type": "equirectangular", "camera_path": [{}]}, "not supported"),
    "no_fov": ({**PATH, "camera_path": [{"camera_to_world": EYE}]}, "missing"),
    "wide_fov": ({**PATH, "camera_path": [path_frame(fov=180)]}, "180"),
    "negative_fov": ({**PATH, "camera_path": [path_frame(fov=-3)]}, "180"),
    "text_fov": ({**PATH, "camera_path": [path_frame(fov="wide")]}, "number"),
    "true_fov": ({**PATH, "camera_path": [path_frame(fov=True)]}, "number"),
    "nan_pose": ({**PATH, "camera_path": [path_frame(camera_to_world=[math.nan] * 16)]}, "NaN"),
    "huge": ({**PATH, "camera_path": [path_frame(camera_to_world=[10**400] * 16)]}, "too large"),
    "overflow": ('{"camera_path": [{"fov": 1e999}]}', "too large"),
    "far": ({**PATH, "camera_path": [path_frame(camera_to_world=far_pose(1e300))]}, "4x4"),
    "too_far": ({**TRANSFORMS, "frames": [{"transform_matrix": far_pose(1e30)}]}, "4x4"),
    "far_focal": ({**TRANSFORMS, "fl_x": 1e300}, "number"),
    "scaled": ({**TRANSFORMS, "frames": [{"transform_matrix": scaled_pose(0.33)}]}, "by 0.33"),
    "short_pose": ({**PATH, "camera_path": [path_frame(camera_to_world=[1.0] * 9)]}, "4x4"),
    "no_pose": ({**TRANSFORMS, "frames": [{}]}, "4x4"),
    "flat": ({**TRANSFORMS, "frames": [{"transform_matrix": [[0] * 4] * 4}]}, "rigid"),
    "no_lens": ({"w": 4, "h": 4, "frames": [{"transform_matrix": EYE}]}, "lens"),
    "zero_focal": ({**TRANSFORMS, "fl_x": 0}, "above 0"),
    "half_pixel": ({**TRANSFORMS, "w": 40.5}, "pixels"),
    "no_pixels": ({**TRANSFORMS, "h": 0}, "pixels"),
    "too_many_pixels": ({**TRANSFORMS, "h": 10**9}, "pixels"),
    "size_null": ({**TRANSFORMS, "h": None}, "number"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_json_is_refused_with_one_line_that_names_the_file(tmp_path, case):
    content, complaint = BAD[case]
    with pytest.raises(InputError, match=complaint) as refusal:
        read_camera_path(written(tmp_path, content))
    assert "\n" not in str(refusal.value)
    assert "cameras.json" in str(refusal.value)


def test_mirrored_poses_are_refused(tmp_path):
    mirrored = [[-1, 0, 0, 0], *EYE[1:]]
    content = {**TRANSFORMS, "frames": [{"transform_matrix": mirrored}]}
    with pytest.raises(InputError, match="determinant -1"):
        read_camera_path(written(tmp_path, content))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda text: text.split("\n")[0], "no frames"),
        (lambda text: text.replace(" ", ",", 3), "line 2.*19 numbers"),
        (lambda text: text + "12 0.5\n", "line 7.*2 words"),
        (lambda text: text + " ".join(["1"] * 19), "line 7.*rigid"),
        (lambda text: text + " ".join(["nan"] * 19), "line 7.*19 numbers"),
        (lambda text: text + "1 0 0 " + " ".join(["1"] * 16), "line 7.*focal"),
        (lambda text: text, "no image size"),
    ],
)
def test_bad_re10k_files_are_refused_with_the_line(tmp_path, change, complaint):
    path = written(tmp_path, change(re10k_text(some_cameras())), "clip.txt")
    with pytest.raises(InputError, match=complaint):
        read_camera_path(path)


def test_files_that_are_no_text_or_no_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no camera file"):
        read_camera_path(tmp_path / "missing.json")
    with pytest.raises(InputError, match="not a file"):
        read_camera_path(tmp_path)
    (tmp_path / "photo.json").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(InputError, match="not text"):
        read_camera_path(tmp_path / "photo.json")
    with pytest.raises(InputError, match="should begin with"):
        read_camera_path(written(tmp_path, "frames: []"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["frames", "camera_path", "transform_matrix", "w", "h", "fov", "fl_x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=60)
@given(json_values)
def test_whatever_json_holds_it_is_cameras_or_a_clear_refusal(tmp_path_factory, content):
    path = written(tmp_path_factory.getbasetemp(), json.dumps(content))
    try:
        cameras = read_camera_path(path, image_size_px=(8, 8))
    except InputError:
        return
    assert cameras.camera_to_world.isfinite().all()
