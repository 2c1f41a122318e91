"""Mixed pixels beside depth edges are separated into what is near and what is far."""

import torch

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.view import View
from zeronvs.scene.matting import separate_outlines

SIZE_PX, EDGE = 64, 30.4
NEAR_Z, FAR_Z = 1.0, 3.0
RED, GREEN = torch.tensor([0.9, 0.2, 0.1]), torch.tensor([0.1, 0.7, 0.3])


def soft_edge(depth_edge: int) -> tuple[View, torch.Tensor]:
    """Return a red surface left of a soft edge before a green one, and how much is red.

    Args:
        depth_edge: The first column at which the depth, wrongly, is the far one.
    """
    column = torch.arange(SIZE_PX).expand(SIZE_PX, -1)
    share = ((EDGE + 1 - column) / 2).clamp(0, 1)  # red covers less and less over two pixels
    image = share * RED[:, None, None] + (1 - share) * GREEN[:, None, None]
    camera = Camera.from_fov(
        orbit_pose(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(1.0)), 0.9, (SIZE_PX,) * 2
    )
    return View(image, camera, torch.where(column < depth_edge, NEAR_Z, FAR_Z)), share


def test_the_depth_edge_moves_to_the_image_edge():
    for depth_edge in (28, 31, 34):
        view, share = soft_edge(depth_edge)
        matte = separate_outlines(view, 0.3)
        assert matte.view.depth_z is not None
        assert bool((matte.view.depth_z[share == 1] == NEAR_Z).all())
        assert bool((matte.view.depth_z[share == 0] == FAR_Z).all())


def test_mixed_pixels_are_split_into_both_colours():
    view, share = soft_edge(31)
    matte = separate_outlines(view, 0.3)
    mixed = (share > 0.15) & (share < 0.85)
    assert int(mixed.sum()) == 2 * SIZE_PX
    assert torch.equal(matte.mixed, mixed)
    torch.testing.assert_close(matte.alpha[mixed], share[mixed], atol=0.08, rtol=0)
    near, far = matte.view.image[:, mixed].T, matte.behind.image[:, mixed].T
    torch.testing.assert_close(near, RED.expand_as(near), atol=0.05, rtol=0)
    torch.testing.assert_close(far, GREEN.expand_as(far), atol=0.05, rtol=0)
    assert matte.behind.depth_z is not None
    assert bool((matte.behind.depth_z[mixed] == FAR_Z).all())
    # Both together look as before.
    composite = matte.alpha * matte.view.image + (1 - matte.alpha) * matte.behind.image
    torch.testing.assert_close(composite, view.image, atol=0.08, rtol=0)


def test_without_contrast_or_edges_nothing_changes():
    view, _ = soft_edge(31)
    grey = View(torch.full_like(view.image, 0.5), view.camera, view.depth_z)
    assert view.depth_z is not None
    for same in (grey, view.with_depth(torch.full_like(view.depth_z, 2.0))):
        matte = separate_outlines(same, 0.3)
        assert not matte.mixed.any()
        assert torch.equal(matte.view.image, same.image)
        assert torch.equal(matte.view.depth_z, same.depth_z)


def test_a_single_pixel_of_the_other_colour_is_texture():
    view, _ = soft_edge(31)
    image = view.image.clone()
    image[:, 20, 27] = GREEN
    matte = separate_outlines(View(image, view.camera, view.depth_z), 0.3)
    assert matte.view.depth_z is not None
    assert float(matte.view.depth_z[20, 27]) == NEAR_Z


def test_a_colour_like_neither_side_belongs_to_the_side_that_varies():
    """A green eave of a red and orange roof before the sky: no mixture of roof and sky is green."""
    view, _ = soft_edge(31)
    column = torch.arange(SIZE_PX).expand(SIZE_PX, -1)
    noise = 0.25 * torch.randn(3, SIZE_PX, SIZE_PX, generator=torch.Generator().manual_seed(0))
    roof = (torch.tensor([0.6, 0.4, 0.2])[:, None, None] + noise).clamp(0, 1)
    sky = torch.tensor([0.6, 0.8, 1.0])[:, None, None].expand(3, SIZE_PX, SIZE_PX)
    image = torch.where(column < 31, roof, sky)
    image[:, 20:24, 31:34] = torch.tensor([0.1, 0.5, 0.3])[:, None, None]
    matte = separate_outlines(View(image, view.camera, view.depth_z), 0.3)
    assert matte.view.depth_z is not None
    assert bool((matte.view.depth_z[21:23, 31:34] == NEAR_Z).all())
    assert float((matte.view.depth_z[:, 38:] == FAR_Z).float().mean()) == 1


def test_slanted_surfaces_continue_to_the_edge_from_beside_it():
    view, share = soft_edge(31)
    column = torch.arange(SIZE_PX).expand(SIZE_PX, -1)
    near_z, far_z = 1.0 + 0.03 * column, 5.0 - 0.03 * column
    matte = separate_outlines(view.with_depth(torch.where(column < 31, near_z, far_z)), 0.3)
    mixed = (share > 0.15) & (share < 0.85)
    assert matte.view.depth_z is not None
    assert matte.behind.depth_z is not None
    # The nearest columns that the band of doubtful pixels does not reach are 24 and 37.
    near = matte.view.depth_z[mixed]
    torch.testing.assert_close(near, torch.full_like(near, 1.0 + 0.03 * 24), atol=0.065, rtol=0)
    far = matte.behind.depth_z[mixed]
    torch.testing.assert_close(far, torch.full_like(far, 5.0 - 0.03 * 37), atol=0.065, rtol=0)


def test_a_third_colour_is_no_mixture():
    view, _ = soft_edge(31)
    image = view.image.clone()
    image[:, :, 27:30] = torch.tensor([0.1, 0.1, 0.95])[:, None, None]
    matte = separate_outlines(View(image, view.camera, view.depth_z), 0.3)
    assert not matte.mixed[:, 27:29].any()
    assert torch.equal(matte.view.image[:, :, 27:29], image[:, :, 27:29])
    assert matte.view.depth_z is not None
    assert bool((matte.view.depth_z[:, 27:29] == NEAR_Z).all())
