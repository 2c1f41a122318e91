"""What the published code fed its network, from the same cameras: `conditioning.npz`."""

import numpy as np
import pytest
import torch

from zeronvs.cameras.embedding import Representation, embed_cameras, representation_from_official
from zeronvs.cameras.scene_scale import align_disparity, fill_depth, viewer_scale


@pytest.fixture(scope="module")
def published(golden_dir):
    with np.load(golden_dir / "conditioning.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def embed(published, representation, scene_scale):
    return embed_cameras(
        representation,
        published["target_cam2world"].double(),
        published["cond_cam2world"].double(),
        torch.deg2rad(published["fov_deg"].double()),
        scene_scale.double(),
    )


def assert_same_vectors(ours, theirs):
    """Within 1e-5 of the largest number of each vector: theirs were rounded to float32."""
    theirs = theirs.double()
    assert ours.shape == theirs.shape
    magnitude = theirs.abs().amax(dim=-1, keepdim=True)
    error = ((ours - theirs).abs() / magnitude).max().item()
    assert error < 1e-5


def aligned_depth(published):
    # The published code aligns in float32; its own rounding is above the tolerance.
    return align_disparity(
        published["predicted_disparity"].float(), published["sparse_depth"].float()
    )


@pytest.mark.parametrize(
    ("mode", "scale_name"),
    [
        ("3dof", "scene_radius"),
        ("7dof_unscaled", "scene_radius"),
        ("7dof", "scene_radius"),
        ("7dof_stereomag_scale", "nearplane_quantile"),
    ],
)
def test_embedding_matches_published_code(published, mode, scale_name):
    ours = embed(published, representation_from_official(mode), published[scale_name])
    assert_same_vectors(ours, published[f"out_{mode}"])


def test_viewer_embedding_with_a_given_scale_matches_published_code(published):
    names = [name for name in published if name.startswith("out_7dof_quantile_scale_precomputed_")]
    assert names
    for name in names:
        scale = torch.full_like(published["fov_deg"], float(name.rsplit("_", 1)[1]))
        ours = embed(published, Representation.SIX_DOF_VIEWER, scale)
        assert_same_vectors(ours, published[name])


def test_aligned_depth_matches_published_code(published):
    torch.testing.assert_close(
        aligned_depth(published), published["out_aligned_depth"], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("blend", [0, 1])
def test_viewer_scale_and_its_embedding_match_published_code(published, blend):
    depth_z = aligned_depth(published)
    if blend:
        depth_z = fill_depth(published["sparse_depth"].float(), depth_z)
    scale = viewer_scale(depth_z)
    theirs = published[f"out_quantile_scale_blend{blend}"].squeeze(-1)
    torch.testing.assert_close(scale, theirs, rtol=1e-5, atol=0)
    ours = embed(published, Representation.SIX_DOF_VIEWER, scale)
    assert_same_vectors(ours, published[f"out_7dof_quantile_scale_blend{blend}"])
