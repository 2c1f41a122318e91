"""The compiled loop of `matting`: each pixel beside a depth edge, explained by both sides."""

import numpy as np
from numba import prange
from numpy.typing import NDArray

from zeronvs.scene.rasterizer_cpu import compiled

WINDOW_PX = 9
"""Half the window in which the colours of both sides are averaged."""
DOUBTFUL_WEIGHT = 0.02
"""Weight of pixels within the band beside those that belong to one side for certain."""

NOISE = 0.03
"""Standard deviation of a colour that is added to that of each side."""


@compiled
def explain(
    image: NDArray[np.float32],
    disparity: NDArray[np.float32],
    band: NDArray[np.bool_],
    middle: NDArray[np.float32],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Return alpha, contrast, distance from the line of mixtures, colours, disparities, likelihood.

    For each listed pixel, the colours of what is nearer and farther than its `middle` disparity are
    averaged in a window; pixels in the band, which may be mixed themselves, count little. The last
    number is how much likelier the near side is, as a logarithm, were both normal distributions.
    """
    height, width = disparity.shape
    out = np.zeros((len(rows), 12), np.float32)
    for index in prange(len(rows)):
        y, x = rows[index], columns[index]
        limit = middle[y, x]
        total = np.zeros(2)
        color = np.zeros((2, 3))
        square_color = np.zeros((2, 3))
        closest = np.full(2, 1e9)
        value = np.zeros(2)
        for v in range(max(0, y - WINDOW_PX), min(height, y + WINDOW_PX + 1)):
            for u in range(max(0, x - WINDOW_PX), min(width, x + WINDOW_PX + 1)):
                side = 0 if disparity[v, u] > limit else 1
                square = (v - y) * (v - y) + (u - x) * (u - x)
                weight = 1.0 / (4.0 + square)
                if band[v, u]:
                    weight *= DOUBTFUL_WEIGHT
                    square += 100
                total[side] += weight
                for channel in range(3):
                    color[side, channel] += weight * image[v, u, channel]
                    square_color[side, channel] += weight * image[v, u, channel] ** 2
                if square < closest[side]:
                    closest[side] = square
                    value[side] = disparity[v, u]
        if total[0] == 0 or total[1] == 0:
            continue
        contrast, along = 0.0, 0.0
        for channel in range(3):
            near, far = color[0, channel] / total[0], color[1, channel] / total[1]
            out[index, 3 + channel], out[index, 6 + channel] = near, far
            contrast += (near - far) ** 2
            along += (near - far) * (image[y, x, channel] - far)
        alpha = min(1.0, max(0.0, along / max(contrast, 1e-9)))
        fit = 0.0
        for channel in range(3):
            mixture = alpha * out[index, 3 + channel] + (1 - alpha) * out[index, 6 + channel]
            fit += (image[y, x, channel] - mixture) ** 2
        out[index, 0] = alpha
        out[index, 1] = np.sqrt(contrast)
        out[index, 2] = np.sqrt(fit)
        out[index, 9], out[index, 10] = value[0], value[1]
        for side in range(2):
            for channel in range(3):
                mean = color[side, channel] / total[side]
                variance = square_color[side, channel] / total[side] - mean * mean + NOISE**2
                log_likelihood = -0.5 * (
                    np.log(variance) + (image[y, x, channel] - mean) ** 2 / variance
                )
                out[index, 11] += log_likelihood if side == 0 else -log_likelihood
    return out
