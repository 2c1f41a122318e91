"""TF32 is allowed for the length of a block, and torch's settings are left as they were."""

from collections.abc import Iterator

import pytest
import torch

from zeronvs._core.precision import full_precision, scene_precision, unet_precision

MATMUL, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn
NEWER = hasattr(MATMUL, "fp32_precision")


def named() -> tuple[str, ...]:
    return (MATMUL.fp32_precision, CUDNN.conv.fp32_precision) if NEWER else ()


def allowed() -> tuple[bool, bool]:
    return MATMUL.allow_tf32, CUDNN.allow_tf32


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave torch's settings as they were for other tests."""
    before, names = allowed(), named()
    yield
    if NEWER:
        MATMUL.fp32_precision, CUDNN.conv.fp32_precision = "none", "tf32"
    MATMUL.allow_tf32, CUDNN.allow_tf32 = before
    if NEWER:
        MATMUL.fp32_precision, CUDNN.conv.fp32_precision = names


@pytest.mark.parametrize("products", [True, False])
@pytest.mark.parametrize("convolutions", [True, False])
@pytest.mark.parametrize(
    ("block", "inside"),
    [
        (unet_precision, (True, True)),
        (scene_precision, (False, True)),
        (full_precision, (False, False)),
    ],
)
def test_a_block_sets_its_policy_whatever_was_set_and_restores_it(
    block, inside, products, convolutions
):
    MATMUL.allow_tf32, CUDNN.allow_tf32 = products, convolutions
    names = named()
    with block():
        assert allowed() == inside
        with full_precision():
            assert allowed() == (False, False)
        assert allowed() == inside
    assert allowed() == (products, convolutions)
    assert named() == names
    with pytest.raises(KeyboardInterrupt), block():
        raise KeyboardInterrupt
    assert allowed() == (products, convolutions)


def test_torch_is_left_in_its_own_state_not_in_one_that_only_looks_alike():
    """ "none" follows the general setting of a program; "ieee" would not."""
    before = named()
    with unet_precision(), full_precision():
        pass
    assert named() == before


@pytest.mark.skipif(not NEWER, reason="this torch has only the older names")
def test_a_program_that_uses_the_newer_names_keeps_them():
    MATMUL.fp32_precision = "tf32"
    with pytest.raises(RuntimeError):
        _ = MATMUL.allow_tf32
    with full_precision():
        assert named()[0] == "ieee"
    assert named()[0] == "tf32"
    with unet_precision():
        assert named()[0] == "tf32"
