"""Holes are filled with the texture of their sources, and with nothing else."""

import torch

from zeronvs.scene.texture import continue_texture


def stripes() -> torch.Tensor:
    row = torch.arange(48)[:, None].expand(48, 64)
    return (0.2 + 0.6 * (row // 4 % 2)).expand(3, 48, 64).clone()


def hole() -> torch.Tensor:
    mask = torch.zeros(48, 64, dtype=torch.bool)
    mask[16:32, 24:40] = True
    return mask


def test_stripes_go_on_through_a_hole():
    image, mask = stripes(), hole()
    filled = continue_texture(torch.where(mask, 1.0, image), mask)
    assert torch.equal(filled[:, ~mask], image[:, ~mask])
    assert float((filled - image)[:, mask].abs().mean()) < 0.2  # a constant is off by 0.3


def test_nothing_comes_from_outside_of_the_sources():
    image, mask = stripes(), hole()
    red = torch.zeros_like(mask)
    red[:, :16] = True
    image[:, red] = torch.tensor([1.0, 0.0, 0.0])[:, None]
    filled = continue_texture(image, mask, source=~mask & ~red)
    spread = filled[0][mask] - filled[1][mask]
    assert float(spread.abs().amax()) < 0.1  # grey stripes


def test_the_guide_says_which_of_two_textures_is_continued():
    image, mask = torch.full((3, 48, 64), 0.2), hole()
    image[:, :, 32:] = 0.8
    means = []
    for like in (0.0, 1.0):  # all of the hole is like the left side, or like the right
        side = torch.zeros(48, 64)
        side[:, 32:] = 1.0
        side[mask] = like
        guide = torch.stack([side, torch.zeros_like(side)])
        means.append(float(continue_texture(image, mask, guide=guide)[:, mask].mean()))
    assert means[1] > means[0] + 0.1


def test_where_nothing_is_known_the_fill_is_grey_and_never_white():
    everything = torch.ones(48, 64, dtype=torch.bool)
    assert float(continue_texture(torch.ones(3, 48, 64), everything).amax()) == 0.5


def test_a_little_that_is_known_is_enough_for_no_white():
    mask = torch.ones(48, 64, dtype=torch.bool)
    mask[10:30, 10:30] = False
    image = torch.full((3, 48, 64), 0.3)
    assert float(continue_texture(image, mask).amax()) < 0.35
