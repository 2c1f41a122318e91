"""An ideal diffusion model of scenes that differ where the photograph does not show them.

Every world is the scene of `sphere_world` with colours of its own on all that faces away from the
photograph. The model's prediction is exact: the mean of the worlds' views, weighted by how well
each explains the noisy latent and the view that the model is conditioned on. So it does what a
trained model of the released kind should do, contradictions included: two views sampled from the
photograph alone show two worlds.
"""

import torch
from diffusers import DDIMScheduler
from sphere_world import BALL_RADIUS, SPHERE_RADIUS, intersect_sphere, sphere_views
from tiny_pipelines import evaluated, tiny_image_encoder, tiny_unet

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.rays import camera_rays
from zeronvs.cameras.view import View
from zeronvs.diffusion.autoencoder import PixelShuffleAutoencoder
from zeronvs.diffusion.condition import CameraCondition, Condition
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.diffusion.projection import CameraProjection
from zeronvs.diffusion.sampling import NoiseSchedule
from zeronvs.protocols import Geometry

WORLDS = 12
SIZE = 32
SHARPNESS = 0.1
"""Standard deviation of a colour by which a view that the model is conditioned on may be wrong."""


def world_views(camera: Camera, worlds: int = WORLDS) -> View:
    """Return the views of all worlds, "world camera 3 h w", the depth of all being the same."""
    truth, rays = sphere_views(camera), camera_rays(camera)
    depth, point = intersect_sphere(rays.origins, rays.directions, SPHERE_RADIUS)
    _, far_point = intersect_sphere(rays.origins, rays.directions, BALL_RADIUS)
    hit = depth.isfinite()[..., None]
    # The photograph, at +x, sees the half of the sphere towards it and the ball behind the sphere.
    direction = torch.where(hit, point / SPHERE_RADIUS, -far_point / BALL_RADIUS)
    hidden = ((0.2 - direction[..., 0]) / 0.2).clamp(0.0, 1.0)
    generator = torch.Generator().manual_seed(4)
    tints = torch.randn(worlds, 3, 3, generator=generator)  # of the axes of the direction
    color = torch.sigmoid(2.0 * torch.einsum("kdc,...d->k...c", tints, direction))
    image = truth.image.movedim(-3, -1).expand_as(color)
    image = torch.lerp(image, color, hidden[..., None].expand_as(color)).movedim(-1, -3)
    cameras = Camera.stack([camera] * worlds)
    assert truth.depth_z is not None
    return View(image, cameras, truth.depth_z.expand(worlds, *truth.depth_z.shape))


class PossibleWorlds(ZeroNVSPipeline):
    """The ideal model; the channels it is conditioned on are the worlds' views of the target."""

    def prepare(self, condition: Condition, cameras: Camera, warped=None) -> CameraCondition:
        given = self._worlds(condition.view.camera).image - condition.view.image
        log_likelihood = -given.square().flatten(2).sum(-1) / (2 * SHARPNESS**2)
        targets = self._worlds(cameras.resized(SIZE, SIZE)).image
        latents = torch.stack([self.to_latent(image) for image in targets], dim=1).flatten(1, 2)
        return CameraCondition(log_likelihood.T[:, None].expand(len(latents), -1, -1), latents)

    def _worlds(self, camera: Camera) -> View:
        """Return the worlds' views of a camera, drawn once."""
        drawn = self.__dict__.setdefault("_drawn", {})
        key = tuple(camera.camera_to_world.flatten().tolist())
        if key not in drawn:
            drawn[key] = world_views(camera)
        return drawn[key]

    def predict(self, noisy_latent, timestep, camera_condition):
        alpha_bar = self.alphas_cumprod[timestep][:, None]
        shape = (len(noisy_latent), -1, *noisy_latent.shape[1:])
        latents = camera_condition.concat.reshape(shape)
        error = noisy_latent[:, None] - alpha_bar.sqrt()[..., None, None, None] * latents
        log_weight = -error.square().flatten(2).sum(-1) / (2 * (1 - alpha_bar))
        weight = (log_weight + camera_condition.tokens[:, 0]).softmax(dim=1)
        return torch.einsum("nk,nkchw->nchw", weight, latents)


class WorldDepth:
    """A depth model that recognises the camera of a view of any world, and knows depth to scale."""

    def __init__(self, cameras: Camera, factor: float = 0.6) -> None:
        self.views, self.factor = world_views(cameras), factor

    def estimate(self, image: torch.Tensor) -> Geometry:
        assert self.views.depth_z is not None
        error = (self.views.image - image[:1]).abs().mean((0, 2, 3, 4))
        depth_z = self.factor * self.views.depth_z[0, int(error.argmin())]
        return Geometry(depth_z=depth_z.expand(len(image), -1, -1), kind="relative")


def possible_worlds() -> PossibleWorlds:
    """Return the model, of the released kind, with exact latents of images of 32 pixels."""
    torch.manual_seed(0)
    scheduler = DDIMScheduler(**NoiseSchedule().config(), prediction_type="sample")
    vae, unet = PixelShuffleAutoencoder(2), tiny_unet(24, 12, sample_size=SIZE // 2)
    projection = CameraProjection(12, 19, 12, conditioning="concat")
    pipe = PossibleWorlds(vae, tiny_image_encoder(), unet, scheduler, projection)
    evaluated(pipe)
    return pipe


def distance_to_one_world(views: View) -> float:
    """Return the mean colour error of views against the world that fits them all best.

    It is 0 where views agree with each other and with a possible scene.
    """
    errors = (world_views(views.camera).image - views.image).abs().mean((1, 2, 3, 4))
    return float(errors.amin())
