"""Holes are filled with the texture of their sources, and with nothing else."""

import pytest
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


def test_textures_are_continued_at_their_own_level():
    # A bright texture above a dark one; the hole touches neither.
    generator = torch.Generator().manual_seed(0)
    image = 0.1 * torch.rand(3, 48, 64, generator=generator) + 0.2
    image[:, :24] += 0.5
    image[:, :, 30:40] = 0.45  # neither
    mask = torch.zeros(48, 64, dtype=torch.bool)
    mask[:, 40:] = True
    source = torch.zeros_like(mask)
    source[:, :30] = True
    level = torch.linspace(0, 1, 48)[:, None].expand(48, 64)
    filled = continue_texture(
        image, mask, source=source, guide=torch.stack([level, torch.zeros_like(level)])
    )
    assert float(filled[:, :20, 46:].mean() - filled[:, 28:, 46:].mean()) > 0.2


@pytest.mark.parametrize("wanted", [0, 1])
def test_of_two_sources_as_near_the_guide_decides(wanted: int):
    generator = torch.Generator().manual_seed(0)
    image = 0.1 * torch.rand(3, 64, 96, generator=generator) + 0.2
    image[:, :, 48:] += 0.5
    mask = torch.zeros(64, 96, dtype=torch.bool)
    mask[:, 36:60] = True
    source = torch.zeros_like(mask)
    source[:, :28] = source[:, 68:] = True
    guide = torch.zeros(2, 64, 96)
    guide[0, :, 48:] = 0.5
    guide[0, mask] = 0.5 * wanted
    filled = continue_texture(image, mask, source=source, guide=guide)[:, mask].mean()
    assert (float(filled) > 0.6) if wanted else (float(filled) < 0.4)


def test_where_nothing_is_known_the_fill_is_grey_and_never_white():
    everything = torch.ones(48, 64, dtype=torch.bool)
    assert float(continue_texture(torch.ones(3, 48, 64), everything).amax()) == 0.5


def test_a_little_that_is_known_is_enough_for_no_white():
    mask = torch.ones(48, 64, dtype=torch.bool)
    mask[10:30, 10:30] = False
    image = torch.full((3, 48, 64), 0.3)
    assert float(continue_texture(image, mask).amax()) < 0.35
