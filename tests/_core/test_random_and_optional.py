"""Noise belongs to a sample, not to its batch; optional packages say how they are installed."""

import pytest
import torch

from zeronvs._core.optional import require
from zeronvs._core.random import draw_noise, seeded_generator


def test_a_sample_gets_the_same_noise_alone_and_in_a_batch():
    together = draw_noise([seeded_generator(seed) for seed in (3, 4, 5)], (2, 7))
    alone = draw_noise([seeded_generator(4)], (2, 7))
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(together[0], together[1])


def test_a_missing_optional_package_is_reported_with_its_install_command():
    with pytest.raises(ImportError, match=r"no_such_package is not installed\. Run: pip install"):
        require("no_such_package", "train")
