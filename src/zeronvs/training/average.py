"""The moving average (EMA) of weights, which is what is sampled from and shipped.

The published average counts its updates from 1 (published code, ldm/modules/ema.py); the one in
diffusers lags one behind and copies at first, so this is written out.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """A moving average of parameters, by name."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        """Start from the weights as they are.

        Args:
            parameters: Parameters to average, by name.
            decay: Share of the old average that a late update keeps.
        """
        self.parameters = dict(parameters)
        self.decay = decay
        self.updates = 0
        self.tensors = {name: value.detach().clone() for name, value in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Include the weights; the decay of update n is min(decay, (1 + n) / (10 + n))."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, parameter in self.parameters.items():
            self.tensors[name].lerp_(parameter, 1 - decay)

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Continue from a saved average."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])
        self.updates = updates

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the model the averaged weights inside the block, without a copy."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            trained = parameter.data
            parameter.data = self.tensors[name]
            self.tensors[name] = trained
