"""Lens distortion in OpenCV's models, as needed for undistortion.

Directions are slopes (x / z, y / z) with OpenCV axes. Resampling needs the forward model only
(undistorted to distorted slopes), so nothing is inverted.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray


@dataclass(frozen=True, kw_only=True)
class Lens:
    """Distortion in OpenCV's models; all coefficients 0 is a pinhole."""

    radial: tuple[float, ...] = ()
    """k1, k2, k3 of the polynomial over r^2 (fisheye: k1 to k4 over the squared angle)."""
    radial_divisor: tuple[float, ...] = ()
    """k4, k5, k6: the polynomial under the fraction."""
    tangential: tuple[float, float] = (0.0, 0.0)
    """p1, p2."""
    fisheye: bool = False
    """Equidistant projection: the radius in the image grows with the angle."""

    @property
    def is_pinhole(self) -> bool:
        """Whether nothing is moved."""
        every = (*self.radial, *self.radial_divisor, *self.tangential)
        return not self.fisheye and not any(every)

    def distorted(self, slopes: Float[ndarray, "*n 2"]) -> Float[ndarray, "*n 2"]:
        """Return where slopes of the scene land, as slopes of the image."""
        x, y = slopes[..., 0], slopes[..., 1]
        squared = x * x + y * y
        if self.fisheye:
            radius = np.sqrt(squared)
            angle = np.arctan(radius)
            length = angle * _polynomial(self.radial, angle * angle)
            factor = np.where(radius > 1e-8, length / np.maximum(radius, 1e-8), 1.0)
            return slopes * factor[..., None]
        factor = _polynomial(self.radial, squared) / _polynomial(self.radial_divisor, squared)
        p1, p2 = self.tangential
        moved_x = x * factor + 2 * p1 * x * y + p2 * (squared + 2 * x * x)
        moved_y = y * factor + p1 * (squared + 2 * y * y) + 2 * p2 * x * y
        return np.stack([moved_x, moved_y], axis=-1)

    def folds(self, slope: float) -> bool:
        """Return whether the distortion is not monotonic within this slope from the axis."""
        radius = np.linspace(0.0, slope, 64)
        reached = self.distorted(np.stack([radius, np.zeros_like(radius)], axis=-1))[:, 0]
        reached_y = self.distorted(np.stack([np.zeros_like(radius), radius], axis=-1))[:, 1]
        return bool((np.diff(reached) <= 0).any() or (np.diff(reached_y) <= 0).any())


def _polynomial(coefficients: tuple[float, ...], squared: ndarray) -> ndarray:
    total = np.ones_like(squared)
    power = squared
    for coefficient in coefficients:
        total = total + coefficient * power
        power = power * squared
    return total
