"""Score distillation pulls a render towards what the diffusion model believes."""

from dataclasses import dataclass

import pytest
import torch

from zeronvs._core.random import seeded_generator
from zeronvs.diffusion.sampling import add_noise
from zeronvs.distillation.sds import gate_gradient, sds_gradient, sds_loss

ALPHAS_CUMPROD = torch.linspace(0.999, 0.001, 100)


@dataclass(frozen=True, eq=False)
class OneImagePrior:
    """The exact noise predictor of a distribution that holds a single latent."""

    mean: torch.Tensor
    alphas_cumprod: torch.Tensor

    def predict_noise(self, noisy_latent, timestep, camera_condition, guidance_scale):
        alpha_bar = self.alphas_cumprod[timestep][:, None, None, None]
        return (noisy_latent - alpha_bar.sqrt() * self.mean) / (1 - alpha_bar).sqrt()


def draw(seed, *shape):
    return torch.randn(shape, generator=seeded_generator(seed))


def test_the_gradient_of_a_one_image_prior_points_from_that_image_with_the_published_weight():
    latent, mean, noise = draw(0, 3, 4, 5, 5), draw(1, 1, 4, 5, 5), draw(2, 3, 4, 5, 5)
    timestep = torch.tensor([5, 50, 95])
    prior = OneImagePrior(mean, ALPHAS_CUMPROD)
    gradient = sds_gradient(prior, latent, timestep, noise, None, 1.0)
    alpha_bar = ALPHAS_CUMPROD[timestep][:, None, None, None]
    expected = (1 - alpha_bar) * alpha_bar.sqrt() / (1 - alpha_bar).sqrt() * (latent - mean)
    torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-4)


def test_the_loss_hands_the_gradient_to_the_latent_divided_by_the_batch():
    latent = draw(0, 3, 4, 5, 5).requires_grad_()
    gradient = draw(1, 3, 4, 5, 5)
    loss = sds_loss(latent, gradient)
    loss.backward()
    torch.testing.assert_close(latent.grad, gradient / 3)
    assert loss.item() == pytest.approx(0.5 * gradient.square().sum().item() / 3, rel=1e-4)


def test_descending_the_loss_arrives_at_the_image_of_the_prior():
    mean = draw(1, 1, 4, 3, 3)
    prior = OneImagePrior(mean, ALPHAS_CUMPROD)
    latent = torch.zeros(1, 4, 3, 3, requires_grad=True)
    optimizer = torch.optim.SGD([latent], lr=0.5)
    for step in range(60):
        noise = draw(step, 1, 4, 3, 3)
        optimizer.zero_grad()
        timestep = torch.tensor([30 + step % 40])
        sds_loss(
            latent, sds_gradient(prior, latent.detach(), timestep, noise, None, 1.0)
        ).backward()
        optimizer.step()
    torch.testing.assert_close(latent.detach(), mean, atol=0.01, rtol=0)


def test_noise_replaces_the_latent_as_alpha_bar_falls():
    latent, noise = draw(0, 2, 1, 4, 4), draw(1, 2, 1, 4, 4)
    noisy = add_noise(latent, noise, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(noisy, torch.stack([latent[0], noise[1]]))


def test_a_closed_gate_keeps_the_pixels_and_stops_their_gradient():
    image = torch.rand(2, 3, 4, 4, generator=seeded_generator(0), requires_grad=True)
    passes = torch.rand(2, 4, 4, generator=seeded_generator(1)) < 0.5
    gated = gate_gradient(image, passes)
    assert torch.equal(gated, image)
    gated.sum().backward()
    assert torch.equal(image.grad, passes[:, None].expand(2, 3, 4, 4).float())
