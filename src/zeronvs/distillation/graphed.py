"""A network's calls launched as CUDA graphs, since launching its kernels takes longer than they do.

Not run on a GPU yet from here; the same capture of the U-Net by `benchmarks/gpu.py` was.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor

Forward = Callable[..., UNet2DConditionOutput]
Inputs = tuple[Tensor, Tensor, Tensor]
"""Noisy latent with its concatenated channels, timesteps, tokens."""

_MOST_SHAPES = 4  # the stages of a recipe have two; each graph holds memory


@dataclass(frozen=True, eq=False)
class CapturedCall:
    """A call with fixed places in memory for inputs and output."""

    inputs: Inputs
    output: Tensor
    replay: Callable[[], None]
    """Computes the output from what the places hold."""


Capture = Callable[[Forward, Inputs], CapturedCall]


class GraphedForward:
    """Replaces the `forward` of a frozen U-Net: each shape of inputs is captured at its first call.

    Without gradients and on CUDA only; all else, and what cannot be captured, is called as before.
    """

    def __init__(self, forward: Forward, capture: Capture | None = None) -> None:
        """Take the function to capture.

        Args:
            capture: How; None: as a CUDA graph.
        """
        self._forward, self._capture = forward, capture or capture_cuda_graph
        self._captured: dict[Any, CapturedCall | None] = {}

    def __call__(
        self, sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, **rest: Any
    ) -> UNet2DConditionOutput:
        """Return the prediction in memory of its own."""
        call = None
        plain = isinstance(timestep, Tensor) and not rest and not torch.is_grad_enabled()
        if plain and sample.device.type == "cuda":
            call = self._call((sample, timestep, encoder_hidden_states))
        if call is None:
            return self._forward(
                sample, timestep, encoder_hidden_states=encoder_hidden_states, **rest
            )
        given = (sample, timestep, encoder_hidden_states)
        for place, value in zip(call.inputs, given, strict=True):
            place.copy_(value)
        call.replay()
        return UNet2DConditionOutput(sample=call.output.clone())

    def _call(self, inputs: Inputs) -> CapturedCall | None:
        """Return the captured call of these shapes; None: they are not captured."""
        key = tuple((value.shape, value.dtype, value.stride()) for value in inputs)
        if key not in self._captured and len(self._captured) < _MOST_SHAPES:
            try:
                self._captured[key] = self._capture(self._forward, inputs)
            except RuntimeError:  # an operation that a graph cannot hold
                self._captured[key] = None
        return self._captured.get(key)


def capture_cuda_graph(forward: Forward, inputs: Inputs) -> CapturedCall:
    """Capture a call as a CUDA graph, after one call aside that sets up libraries."""
    sample, timestep, tokens = (value.clone() for value in inputs)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        forward(sample, timestep, encoder_hidden_states=tokens)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = forward(sample, timestep, encoder_hidden_states=tokens).sample
    return CapturedCall((sample, timestep, tokens), output, graph.replay)
