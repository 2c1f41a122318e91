import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from zeronvs._core.errors import InputError
from zeronvs.cameras.embedding import (
    Representation,
    embed_cameras,
    representation_from_official,
    squash_translation,
)
from zeronvs.cameras.poses import look_at, orbit_pose

SIX_DOF = [r for r in Representation if r is not Representation.THREE_DOF]
SCALED = [r for r in SIX_DOF if r is not Representation.SIX_DOF]


def random_poses(seed, count):
    generator = torch.Generator().manual_seed(seed)
    position = torch.randn(2, count, 3, generator=generator, dtype=torch.float64)
    return look_at(position[0], position[1])


def embed(representation, target, source, fov_y_rad=0.9, scale=1.5):
    ones = torch.ones(target.shape[:-2], dtype=torch.float64)
    return embed_cameras(representation, target, source, fov_y_rad * ones, scale * ones)


def test_shapes_are_checked_at_the_public_border():
    pose, one = torch.eye(4), torch.ones(())
    with pytest.raises(TypeCheckError):
        embed_cameras(Representation.SIX_DOF, pose[:3], pose, one, one)


@pytest.mark.parametrize("representation", Representation)
def test_size_is_the_length_of_the_embedding(representation):
    embedding = embed(representation, random_poses(0, 5), random_poses(1, 5))
    assert embedding.shape == (5, representation.size)


@pytest.mark.parametrize("representation", SIX_DOF)
def test_same_camera_is_the_identity_and_the_lens(representation):
    pose = random_poses(0, 1)
    embedding = embed(representation, pose, pose, fov_y_rad=0.9)[0]
    is_diagonal = representation is Representation.SIX_DOF_MEGASCENES
    fov = 2 * math.atan(math.hypot(1, 1) * math.tan(0.45)) if is_diagonal else 0.9
    lens = torch.tensor([fov, math.sin(fov), math.cos(fov)], dtype=torch.float64)
    expected = torch.cat([torch.eye(4, dtype=torch.float64).flatten(), lens])
    torch.testing.assert_close(embedding, expected)


@pytest.mark.parametrize("representation", SIX_DOF)
@pytest.mark.parametrize("seed", range(3))
def test_six_dof_ignores_how_the_scene_lies_in_the_world(representation, seed):
    target, source = random_poses(seed, 4), random_poses(seed + 10, 4)
    world = random_poses(seed + 20, 1)
    moved = embed(representation, world @ target, world @ source)
    torch.testing.assert_close(moved, embed(representation, target, source))


def test_three_dof_ignores_turns_about_the_vertical_axis_only():
    target, source = random_poses(0, 4), random_poses(1, 4)
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    turn = orbit_pose(zero + 2.0, zero, one) @ torch.linalg.inv(orbit_pose(zero, zero, one))
    embedding = embed(Representation.THREE_DOF, target, source)
    turned = embed(Representation.THREE_DOF, turn @ target, turn @ source)
    torch.testing.assert_close(turned, embedding)
    tilted = embed(Representation.THREE_DOF, random_poses(2, 1) @ target, source)
    assert not torch.allclose(tilted, embedding)


def test_three_dof_counts_polar_angle_azimuth_and_radius():
    angles = torch.tensor([[0.3, 0.2, 1.0], [1.0, 0.5, 3.0]], dtype=torch.float64)
    source, target = (orbit_pose(*row) for row in angles)
    embedding = embed(Representation.THREE_DOF, target, source)
    expected = torch.tensor([0.2 - 0.5, math.sin(0.7), math.cos(0.7), 2.0], dtype=torch.float64)
    torch.testing.assert_close(embedding, expected)


@settings(deadline=None, max_examples=20)
@given(st.floats(0.2, 20.0), st.sampled_from(SCALED))
def test_scene_and_scale_may_grow_together(factor, representation):
    target, source = random_poses(3, 4), random_poses(4, 4)
    grown = [pose.clone() for pose in (target, source)]
    for pose in grown:
        pose[..., :3, 3] *= factor
    big = embed(representation, *grown, scale=factor)
    torch.testing.assert_close(big, embed(representation, target, source, scale=1.0))


@pytest.mark.parametrize("representation", [Representation.SIX_DOF, Representation.SIX_DOF_AGG])
def test_far_cameras_are_clipped(representation):
    far, near = random_poses(5, 1), random_poses(6, 1)
    far[..., :3, 3] *= 1e6
    assert embed(representation, far, near).abs().max() == 20.0


def test_viewer_squash_halves_small_steps_and_saturates_at_five():
    small = torch.tensor([1e-4, -2e-4, 0.0], dtype=torch.float64)
    torch.testing.assert_close(squash_translation(small), small / 2)
    large = torch.tensor([1e3, -1e3, 0.0], dtype=torch.float64)
    torch.testing.assert_close(
        squash_translation(large), torch.tensor([5.0, -5.0, 0.0], dtype=torch.float64)
    )


def test_megascenes_translations_are_those_of_the_viewer_before_the_squash():
    target, source = random_poses(5, 3), random_poses(6, 3)
    viewer = embed(Representation.SIX_DOF_VIEWER, target, source)[:, [3, 7, 11]]
    plain = embed(Representation.SIX_DOF_MEGASCENES, target, source)[:, [3, 7, 11]]
    torch.testing.assert_close(viewer, squash_translation(plain))
    assert Representation.SIX_DOF_MEGASCENES.scaled_as is Representation.SIX_DOF_VIEWER


@pytest.mark.parametrize("representation", SCALED)
def test_scales_next_to_zero_are_floored(representation):
    target, source = random_poses(7, 2), random_poses(8, 2)
    floor = 0.1 if representation is Representation.SIX_DOF_AGG else 1e-2
    torch.testing.assert_close(
        embed(representation, target, source, scale=0.0),
        embed(representation, target, source, scale=floor),
    )


def test_unknown_scale_is_one_for_agg_and_no_translation_for_viewer():
    target, source = random_poses(7, 2), random_poses(8, 2)
    torch.testing.assert_close(
        embed(Representation.SIX_DOF_AGG, target, source, scale=math.nan),
        embed(Representation.SIX_DOF_AGG, target, source, scale=1.0),
    )
    viewer = embed(Representation.SIX_DOF_VIEWER, target, source, scale=math.nan)
    assert viewer[:, [3, 7, 11]].abs().max() == 0.0


@pytest.mark.parametrize("representation", Representation)
def test_many_targets_share_one_input(representation):
    targets, source = random_poses(0, 6), random_poses(1, 1)[0]
    fov_y_rad, scale = torch.tensor(0.9).double(), torch.tensor(0.7).double()
    together = embed_cameras(representation, targets, source, fov_y_rad, scale)
    apart = [embed_cameras(representation, t, source, fov_y_rad, scale) for t in targets]
    torch.testing.assert_close(together, torch.stack(apart))


@pytest.mark.parametrize(
    "representation", [r for r in Representation if r is not Representation.SIX_DOF_MEGASCENES]
)
def test_official_modes_lead_back_to_their_representation(representation):
    assert representation_from_official(representation.official_mode) is representation
    assert Representation(str(representation)) is representation


def test_unknown_official_mode_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="7dof_quantile_scale"):
        representation_from_official("7dof_qs")
