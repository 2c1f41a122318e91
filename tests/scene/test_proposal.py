"""Sampling along rays and the losses on histograms of weights."""

import pytest
import torch

from zeronvs.scene.hash_grid import HashGridConfig
from zeronvs.scene.proposal import (
    ProposalConfig,
    ProposalDensity,
    distance_of,
    distortion_loss,
    even_edges,
    interlevel_loss,
    resample,
    truncated_exp,
)

TINY = ProposalConfig(grid=HashGridConfig(levels=2, log2_table_size=8, base_resolution=4))


def random_histogram(rays=8, intervals=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    edges = torch.rand(rays, intervals + 1, generator=generator).sort(dim=-1).values
    edges = (edges - edges[:, :1]) / (edges[:, -1:] - edges[:, :1])
    return edges, torch.rand(rays, intervals, generator=generator).softmax(dim=-1)


def test_samples_are_uniform_in_disparity_from_near_to_far():
    distances = distance_of(torch.linspace(0, 1, 9), 0.5, 1000.0)
    torch.testing.assert_close(distances[[0, -1]], torch.tensor([0.5, 1000.0]))
    disparity = 1.0 / distances
    torch.testing.assert_close(disparity.diff(), disparity.diff()[:1].expand(8))


def test_jittered_edges_stay_ascending_and_cover_the_ray():
    jitter = torch.tensor([[-0.5], [0.4999], [0.0]])
    edges = even_edges(3, 10, jitter, jitter)
    assert (edges.diff(dim=-1) > 0).all()
    torch.testing.assert_close(edges[:, [0, -1]], torch.tensor([[0.0, 1.0]]).expand(3, 2))


def test_new_intervals_hold_equal_shares_of_the_histogram():
    edges, weights = random_histogram()
    fine = resample(edges, weights, even_edges(8, 64, None, edges), padding=0.0)
    density = weights / edges.diff(dim=-1)
    middle = 0.5 * (fine[:, 1:] + fine[:, :-1])
    interval = torch.searchsorted(edges, middle.contiguous(), right=True) - 1
    # Intervals that lie inside of one old interval must hold 1/64 of the mass.
    inside = (edges.gather(1, interval) <= fine[:, :-1] + 1e-6) & (
        edges.gather(1, interval + 1) >= fine[:, 1:] - 1e-6
    )
    mass = (density.gather(1, interval) * fine.diff(dim=-1))[inside]
    torch.testing.assert_close(mass, torch.full_like(mass, 1 / 64), atol=1e-4, rtol=1e-2)


def test_what_is_not_absorbed_counts_to_the_last_interval():
    edges = torch.linspace(0, 1, 5)[None]
    fine = resample(edges, torch.zeros(1, 4), even_edges(1, 8, None, edges), padding=0.0)
    assert fine[0, 1] >= 0.75


def test_interlevel_loss_is_zero_where_the_proposal_bounds_the_weights():
    edges, weights = random_histogram()
    assert interlevel_loss(edges, weights, edges, weights).max() < 1e-8
    coarse = edges[:, ::4].contiguous()
    pooled = weights.view(8, 4, 4).sum(-1)
    assert interlevel_loss(coarse, pooled, edges, weights).max() < 1e-8


def test_interlevel_loss_grows_where_mass_is_missed_and_trains_the_proposal_alone():
    edges, weights = random_histogram()
    missed = torch.full_like(weights, 1e-3).requires_grad_(True)
    final = weights.clone().requires_grad_(True)
    loss = interlevel_loss(edges, missed, edges, final)
    by_missed, by_final = torch.autograd.grad(loss.sum(), [missed, final], allow_unused=True)
    assert (loss > 0).all()
    assert (by_missed <= 0).all()
    assert by_final is None


def test_distortion_loss_equals_the_double_sum_of_the_paper():
    edges, weights = random_histogram()
    middle = 0.5 * (edges[:, 1:] + edges[:, :-1])
    pairs = (middle[:, :, None] - middle[:, None, :]).abs()
    between = (weights[:, :, None] * weights[:, None, :] * pairs).sum((1, 2))
    within = (weights.square() * edges.diff(dim=-1)).sum(-1) / 3
    torch.testing.assert_close(distortion_loss(edges, weights), between + within)


def test_the_published_proposal_is_empty_outside_its_box_and_the_contracted_one_is_not():
    outside = torch.tensor([[2.1, 0.0, 0.0], [0.0, -50.0, 0.0]])
    assert (ProposalDensity(TINY)(outside) == 0).all()
    assert (ProposalDensity(TINY)(outside * 0.9 / 2.1) > 0).any()
    assert (ProposalDensity(ProposalConfig.small())(outside) > 0).all()


def test_the_truncated_exponential_stays_finite_and_keeps_its_gradient():
    value = torch.tensor([-1.0, 0.0, 100.0], requires_grad=True)
    out = truncated_exp(value)
    (gradient,) = torch.autograd.grad(out.sum(), value)
    torch.testing.assert_close(out, value.detach().clamp(max=15).exp())
    torch.testing.assert_close(gradient, out.detach())


@pytest.mark.parametrize("neighbour", [0, 2])
def test_intervals_that_only_share_an_edge_do_not_bound_each_other(neighbour):
    edges = torch.linspace(0, 1, 5)[None]
    weights, proposal = torch.zeros(1, 4), torch.zeros(1, 4)
    weights[0, 1] = proposal[0, neighbour] = 0.8
    missed = interlevel_loss(edges, proposal, edges, weights)
    assert missed.item() == pytest.approx(0.8**2 / 0.8 / 4, rel=1e-4)
    assert interlevel_loss(edges, weights, edges, weights).item() == 0.0


def test_an_interval_is_bounded_by_all_that_it_overlaps():
    coarse, fine = torch.tensor([[0.0, 0.5, 1.0]]), torch.tensor([[0.0, 0.4, 0.6, 1.0]])
    proposal, weights = torch.tensor([[0.3, 0.2]]), torch.tensor([[0.0, 0.6, 0.0]])
    expected = (0.6 - 0.5) ** 2 / 0.6 / 3  # the middle interval touches both
    loss = interlevel_loss(coarse, proposal, fine, weights)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
