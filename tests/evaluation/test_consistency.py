"""Consistency along a trajectory: images of one room agree with their cameras, others do not."""

import math

import numpy as np
import pytest
import torch
from skimage.feature import SIFT, match_descriptors
from tiny_pipelines import tiny_image_encoder

from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import look_at, orbit_pose
from zeronvs.cameras.warp import project
from zeronvs.datasets.procedural import drawn_texture, random_scene
from zeronvs.evaluation.consistency import (
    PairConsistency,
    fundamental_matrix,
    structure_from_motion,
    symmetric_epipolar_distance,
    trajectory_pairs,
    tsed,
)
from zeronvs.evaluation.metrics import ClipSimilarity


def trajectory(count: int, step_rad: float = 0.06, size_px: int = 160) -> Camera:
    azimuth_rad = step_rad * torch.arange(count)
    position = orbit_pose(azimuth_rad, torch.full((count,), 0.4), torch.full((count,), 1.4))
    pose = look_at(position[:, :3, 3], torch.tensor([0.0, 0.0, 0.25]))
    return Camera.from_fov(pose, 1.0, (size_px, size_px))


def room(cameras: Camera, seed: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    textures = torch.stack([drawn_texture(generator, 256) for _ in range(6)])
    scene = random_scene(generator, textures)
    return torch.stack([scene.render(cameras[k]).image for k in range(len(cameras))])


@pytest.fixture(scope="module")
def walk() -> tuple[torch.Tensor, Camera]:
    cameras = trajectory(4)
    return room(cameras), cameras


def test_a_point_lies_on_its_epipolar_lines():
    cameras = trajectory(2, 0.4)
    points = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    (uv, _), (other_uv, _) = (project(points, cameras[k]) for k in range(2))
    distance = symmetric_epipolar_distance(uv, other_uv, cameras[0], cameras[1])
    assert float(distance.max()) < 1e-3
    # Against the definition: 3 pixels off the line, measured in the second image alone.
    line = torch.cat([uv[0].double(), torch.ones(1)]) @ fundamental_matrix(*two(cameras)).mT
    normal = line[:2] / line[:2].norm()
    moved = other_uv[:1] + 3 * normal.float()
    back = torch.cat([moved[0].double(), torch.ones(1)]) @ fundamental_matrix(*two(cameras))
    residual = (back * torch.cat([uv[0].double(), torch.ones(1)])).sum().abs() / back[:2].norm()
    found = symmetric_epipolar_distance(uv[:1], moved, cameras[0], cameras[1])
    assert float(found) == pytest.approx(float(3 + residual) / 2, abs=1e-2)


def two(cameras: Camera) -> tuple[Camera, Camera]:
    return cameras[0], cameras[1]


def test_images_of_one_room_are_consistent_with_their_cameras(walk):
    images, cameras = walk
    pairs = trajectory_pairs(images, cameras)
    assert len(pairs) == 3
    assert all(pair.matches >= 10 and pair.median_distance_px < 1.0 for pair in pairs)
    assert tsed(images, cameras) == 1.0


def test_other_cameras_or_other_images_are_not(walk):
    images, cameras = walk
    # Cameras that rise where the images turn.
    pose = cameras.camera_to_world[:1].repeat(4, 1, 1)
    pose[:, :3, 3] += 0.2 * torch.arange(4)[:, None] * pose[:, :3, 1]
    assert tsed(images, cameras.with_poses(pose)) == 0.0
    others = torch.stack([room(cameras[[k]], seed=20 + k)[0] for k in range(4)])
    assert tsed(others, cameras) < 0.5
    flat = torch.full_like(images, 0.5)
    assert tsed(flat, cameras) == 0.0  # without features nothing is consistent
    with pytest.raises(InputError, match="at least two images"):
        tsed(images[:1], cameras[:1])


def test_a_pair_needs_enough_matches_that_are_near_enough():
    near = PairConsistency(matches=10, median_distance_px=1.99)
    assert near.is_consistent()
    assert not PairConsistency(matches=9, median_distance_px=0.1).is_consistent()
    assert not PairConsistency(matches=99, median_distance_px=2.0).is_consistent()


def test_the_number_of_matches_is_scikit_images(walk):
    images, cameras = walk
    found = []
    for image in images[:2]:
        sift = SIFT()
        grey = np.tensordot([0.299, 0.587, 0.114], image.double().numpy(), 1)
        sift.detect_and_extract(grey)
        found.append(sift.descriptors)
    matches = match_descriptors(*found, max_ratio=0.8, cross_check=True)
    assert trajectory_pairs(images[:2], cameras[:2])[0].matches == len(matches)


def test_structure_from_motion_registers_a_room_and_fails_on_noise():
    pytest.importorskip("pycolmap", reason="needs pycolmap: pip install 'zeronvs[sfm]'")
    cameras = trajectory(5, 0.1, 256)
    score = structure_from_motion(room(cameras), cameras)
    assert score.registered == 1.0
    assert score.points > 50
    assert score.reprojection_px < 2
    assert score.rotation_deg < 3
    noise = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    failed = structure_from_motion(noise, trajectory(3, 0.1, 64))
    assert (failed.registered, failed.points, failed.rotation_deg) == (0.0, 0, 180.0)
    assert math.isinf(failed.reprojection_px)


def test_clip_similarity_is_the_cosine_of_the_embeddings_of_the_central_squares():
    torch.manual_seed(0)
    encoder = tiny_image_encoder().eval()
    similarity = ClipSimilarity(encoder)
    one, other = torch.rand(2, 2, 3, 28, 40, generator=torch.Generator().manual_seed(1))
    found = similarity(one, other)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    with torch.no_grad():
        a, b = (
            encoder(pixel_values=(image[..., 6:34] - mean) / deviation).image_embeds
            for image in (one, other)
        )
    expected = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(similarity(one, one), torch.ones(2))
    assert similarity.backbone == "ViT-16/14"
