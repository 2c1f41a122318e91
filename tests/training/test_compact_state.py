"""What the compact training state keeps, and how closely."""

import pytest
import torch
from torch import nn

from zeronvs._core.errors import InputError
from zeronvs.training.compact_state import (
    LEVELS,
    capture,
    dequantize,
    factor,
    quantize,
    settle,
    stored_average,
    unfactor,
)


def generator():
    return torch.Generator().manual_seed(0)


def test_four_bits_keep_each_number_within_half_a_step_of_its_block():
    values = torch.randn(1000, generator=generator()) * torch.logspace(-6, 2, 1000)
    codes, scale = quantize(values)
    assert codes.dtype == torch.uint8
    assert len(codes) == 512
    error = (dequantize(codes, scale, 1000) - values).abs()
    largest = torch.stack([block.abs().max() for block in values.split(64)])
    allowed = largest.repeat_interleave(64)[:1000] / LEVELS
    assert bool((error <= 0.55 * allowed).all())


def test_four_bits_of_zeros_are_zeros():
    assert bool((dequantize(*quantize(torch.zeros(5, 7)), 35) == 0).all())


def test_a_moment_of_rank_one_is_kept_exactly_and_any_other_with_its_mean():
    rows, columns = torch.rand(6, generator=generator()), torch.rand(8, generator=generator())
    outer = (rows[:, None] * columns).view(6, 2, 4)
    torch.testing.assert_close(unfactor(*factor(outer), outer.shape), outer)
    other = torch.rand(6, 5, generator=generator())
    torch.testing.assert_close(unfactor(*factor(other), other.shape).mean(), other.mean())
    vector = torch.rand(9, generator=generator())
    torch.testing.assert_close(unfactor(*factor(vector), vector.shape), vector)


def trained_parts(width=256):
    torch.manual_seed(0)
    modules = nn.ModuleDict({"net": nn.Sequential(nn.Linear(width, width), nn.Linear(width, 1))})
    average = {name: value.detach() * 1.01 for name, value in modules.state_dict().items()}
    optimizer = torch.optim.AdamW(modules.parameters(), lr=1e-3)
    for _ in range(3):
        modules["net"](torch.randn(8, width, generator=generator())).square().mean().backward()
        optimizer.step()
    return modules, average, optimizer


def test_the_state_takes_at_most_22_bits_a_parameter():
    modules, average, optimizer = trained_parts(512)
    tensors = capture(modules, average, optimizer)
    stored = sum(value.numel() * value.element_size() for value in tensors.values())
    assert 8 * stored < 22 * sum(value.numel() for value in modules.parameters())


def test_a_settled_state_is_what_another_process_would_load():
    modules, average, optimizer = trained_parts()
    before = {name: value.clone() for name, value in average.items()}
    tensors = capture(modules, average, optimizer)
    settle(tensors, modules, average, optimizer, 3)
    fresh, fresh_average, fresh_optimizer = trained_parts()
    settle(tensors, fresh, fresh_average, fresh_optimizer, 3)
    for name, value in modules.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name])
        assert torch.equal(average[name], fresh_average[name])
        torch.testing.assert_close(average[name], before[name], atol=2e-3, rtol=2e-2)
    for ours, theirs in zip(modules.parameters(), fresh.parameters(), strict=True):
        for key, value in optimizer.state[ours].items():
            assert torch.equal(value, fresh_optimizer.state[theirs][key])
    assert torch.equal(stored_average(tensors, average)["net.0.weight"], average["net.0.weight"])


def test_the_state_of_another_model_is_refused():
    tensors = capture(*trained_parts())
    with pytest.raises(InputError, match="another model"):
        settle(tensors, *trained_parts(16), 3)
