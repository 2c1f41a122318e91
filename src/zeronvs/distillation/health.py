"""Detection of failed runs: non-finite numbers, blank images, ignored conditioning, empty scenes.

Checks return findings, which are kept in `run.json`; `raise_errors` stops the run.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zeronvs._core.errors import HealthError
from zeronvs._core.random import draw_noise, seeded_generator
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.rays import camera_rays
from zeronvs.diffusion.condition import Condition
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.protocols import Scene
from zeronvs.scene.field_scene import FieldScene

_BLACK = 2.0 / 255.0
_FLAT = 1.0 / 255.0

BROKEN_STEPS = 3
"""So many steps that are not finite end a run: one in thousands is chance, three are a fault."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Result of a failed check."""

    check: str
    """Name of the check."""
    severity: Literal["warn", "error"]
    """"error": the result is useless; "warn": inspect it."""
    message: str
    """Observation and remedy, for the user."""
    value: float
    """The measured number that failed the check."""


def raise_errors(findings: Iterable[Finding]) -> None:
    """Stop where a finding is an error.

    Raises:
        HealthError: With the messages of all errors.
    """
    errors = [finding.message for finding in findings if finding.severity == "error"]
    if errors:
        raise HealthError(" ".join(errors))


def check_step(values: Mapping[str, float], step: int, skipped: int) -> list[Finding]:
    """Detect a step whose loss terms or gradients are not finite: a warning, or the end of the run.

    Args:
        values: Loss terms and norms of gradients by name.
        step: Step of the run, from 1.
        skipped: Such steps before this one.
    """
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    if not broken:
        return []
    message = (
        f"{broken[0]} became {values[broken[0]]} at step {step}, after {skipped} skipped steps of "
        "this kind. The last good checkpoint is kept: resume the run; if it happens again, halve "
        "the learning rate, bring the far plane nearer or run in full precision."
    )
    severity = "error" if skipped + 1 >= BROKEN_STEPS else "warn"
    return [Finding(check="finite step", severity=severity, message=message, value=float(step))]


def check_weights(module: nn.Module, step: int) -> list[Finding]:
    """Detect parameters that are not finite."""
    broken = [
        name for name, weight in module.named_parameters() if not bool(weight.isfinite().all())
    ]
    if not broken:
        return []
    message = (
        f"weights became NaN or infinite by step {step} ({', '.join(broken[:3])}). The last good "
        "checkpoint is kept: resume the run; if it happens again, halve the learning rate."
    )
    return [Finding(check="finite weights", severity="error", message=message, value=float(step))]


def check_images(images: Float[Tensor, "n 3 h w"], what: str) -> list[Finding]:
    """Detect images that are NaN, black, or of a single colour.

    One such image among many is a warning; half of them or more are an error.

    Args:
        images: RGB in [0, 1].
        what: Name of the images in the message, e.g. "the orbit video".
    """
    flat = images.flatten(1)
    kinds = {
        "NaN": ~flat.isfinite().all(dim=1),
        "black": flat.amax(dim=1) < _BLACK,
        "of one colour": (flat.amax(dim=1) >= _BLACK) & (_spread(images) < _FLAT),
    }
    remedies = {
        "NaN": "The weights or the input hold NaN: run in full precision.",
        "black": "Check the weights, and that the cameras face the scene.",
        "of one colour": "Check that the cameras face the scene, and that it is not empty.",
    }
    findings = []
    for kind, hits in kinds.items():
        count = int(hits.sum())
        if count:
            share = count / len(images)
            findings.append(
                Finding(
                    check=f"images: {kind}",
                    severity="error" if share >= 0.5 or kind == "NaN" else "warn",
                    message=f"{count} of {len(images)} images of {what} are {kind}. "
                    + remedies[kind],
                    value=share,
                )
            )
    return findings


@torch.no_grad()
def check_camera_conditioning(
    pipe: ZeroNVSPipeline, condition: Condition, cameras: Camera, seed: int = 0
) -> list[Finding]:
    """Detect weights that ignore the camera: the predicted noise must change with the camera.

    Args:
        condition: The photo, batch of 1.
        cameras: Two or more different cameras.
    """
    camera_condition = pipe.prepare(condition, cameras)
    latent = condition.latent
    noise = draw_noise([seeded_generator(seed)], tuple(latent.shape[1:])).to(latent)
    noise = noise.expand(len(cameras), -1, -1, -1)
    timestep = torch.full((len(cameras),), len(pipe.alphas_cumprod) // 2, device=latent.device)
    predicted = pipe.predict_noise(noise, timestep, camera_condition, 1.0)
    difference = float((predicted[1:] - predicted[:1]).norm() / predicted.norm().clamp(min=1e-12))
    if difference > 1e-6:
        return []
    message = (
        f"the model ignores the camera (its predictions differ by {difference:.1e}). Check that "
        "the weights have a cc_projection and come from a view-conditioned checkpoint."
    )
    return [
        Finding(check="camera conditioning", severity="error", message=message, value=difference)
    ]


def check_sds_gradient(loss: float, step: int) -> list[Finding]:
    """Detect a score distillation gradient that is zero, by its loss: half the sum of its squares.

    Args:
        loss: The weighted loss; it is read with the others, as reading waits for the GPU.
    """
    if loss > 1e-14 or not math.isfinite(loss):  # NaN is for check_step
        return []
    message = (
        f"the score distillation gradient is zero at step {step}: the model agrees with any image. "
        "Check the weights and the guidance scale."
    )
    return [Finding(check="sds gradient", severity="error", message=message, value=loss)]


@torch.no_grad()
def check_scene(scene: Scene, cameras: Camera) -> list[Finding]:
    """Detect an empty scene, and cameras inside its content.

    Args:
        cameras: Batch of cameras that ought to see it; small images do.
    """
    findings = []
    opacity = float(scene.render(cameras.resized(32, 32)).opacity.mean())
    if opacity < 0.5:
        message = (
            f"the scene is {'empty' if opacity < 0.05 else 'thin'}: its mean opacity is "
            f"{opacity:.2f}. Train longer, or raise the weight of the photo."
        )
        severity = "error" if opacity < 0.05 else "warn"
        findings.append(
            Finding(check="empty scene", severity=severity, message=message, value=opacity)
        )
    inside = cameras_inside(scene, cameras) if isinstance(scene, FieldScene) else 0.0
    if inside > 0:
        message = (
            f"{inside:.0%} of the cameras are inside content. Raise the scene scale, or keep the "
            "cameras farther out."
        )
        findings.append(
            Finding(check="cameras inside", severity="warn", message=message, value=inside)
        )
    return findings


@torch.no_grad()
def cameras_inside(scene: FieldScene, cameras: Camera, samples: int = 16) -> float:
    """Return the share of cameras whose view is blocked between the camera and the near plane.

    Rendering starts at the near plane, so such content is invisible in renders but not in exports.
    A camera counts when less than half the light of most of nine rays reaches the near plane.
    """
    rays = camera_rays(cameras.resized(3, 3).to(scene.device))
    near = scene.render_config.near
    distance = (torch.arange(samples, device=rays.origins.device) + 0.5) / samples * near
    points = rays.origins[..., None, :] + distance[:, None] * rays.directions[..., None, :]
    density = scene.field.density(points.reshape(-1, 3)).reshape(points.shape[:-1])
    transmittance = torch.exp(-density.sum(-1) * near / samples)
    blocked = (transmittance < 0.5).flatten(1).float().mean(dim=1) > 0.5
    return float(blocked.float().mean())


def _spread(images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
    """Return the largest standard deviation over pixels among the channels of each image."""
    return images.flatten(2).std(dim=2, correction=0).amax(dim=1)
