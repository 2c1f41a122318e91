"""State of a training run: weights, moving average, optimiser, position in the data.

One safetensors file in full precision, written aside and renamed, so that a kill at any moment
leaves the last complete state. No pickle: a state may come from somebody else. Random numbers need
no state, since they are drawn from (seed, example).

The moving average (EMA) counts its updates from 1, as published (ldm/modules/ema.py); `EMAModel` of
diffusers lags one behind and copies at first.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zeronvs._core.errors import InputError
from zeronvs._core.files import parse_json, write_aside
from zeronvs._core.resumable import checked_step

FILE_NAME = "state.safetensors"
_DAMAGE = (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError)


class WeightAverage:
    """A moving average of parameters, by name."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        """Start from the weights as they are.

        Args:
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


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingState:
    """The state after a whole number of steps."""

    step: int
    """Steps done."""
    seconds: float
    """Time worked so far, over all parts of the run."""
    layout: dict[str, int]
    """Batch, processes and seed of the data; `data_states` are valid for this layout only."""
    data_states: list[Any]
    """The state of the data stream of each process, as JSON."""
    average_updates: int
    """Updates of the moving average."""
    scaler: dict[str, float] | None
    """State of the gradient scaler of fp16."""
    tensors: dict[str, Tensor]
    """Weights, average and optimiser moments by name."""


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def capture_tensors(
    model: nn.Module, average: WeightAverage | None, optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Collect the tensors of a state; they are those in use, not copies."""
    parameters = trained_parameters(model)
    tensors = {f"weights.{name}": value.detach() for name, value in parameters.items()}
    if average is not None:
        tensors |= {f"average.{name}": value for name, value in average.tensors.items()}
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
    return tensors


def restore_tensors(
    state: TrainingState,
    model: nn.Module,
    average: WeightAverage | None,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Copy the tensors of a state into parts built from the same settings.

    Raises:
        InputError: The state is of another model, or has a number that is not finite.
    """
    tensors, parameters = state.tensors, trained_parameters(model)
    bad = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if bad:
        raise InputError(f"the saved state has numbers that are not finite, in {bad[0]}")
    named = {id(parameter): name for name, parameter in parameters.items()}
    try:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tensors[f"weights.{name}"])
        if average is not None:
            stored = {name: tensors[f"average.{name}"] for name in average.tensors}
            average.load(stored, state.average_updates)
        slots = sorted({name.split(".")[1] for name in tensors if name.startswith("optimizer.")})
        groups = optimizer.state_dict()["param_groups"]
        order = [named[id(value)] for group in optimizer.param_groups for value in group["params"]]
        moments = {
            index: {slot: tensors[f"optimizer.{slot}.{name}"] for slot in slots}
            for index, name in enumerate(order)
            if any(f"optimizer.{slot}.{name}" in tensors for slot in slots)
        }
        optimizer.load_state_dict({"state": moments, "param_groups": groups})
    except (KeyError, RuntimeError) as error:
        raise InputError(
            f"the saved state is of another model ({str(error).splitlines()[0]}). "
            "Train into another folder"
        ) from error


def save_state(path: Path, state: TrainingState) -> None:
    """Write a state, whole or not at all."""
    header = {
        "step": state.step,
        "seconds": state.seconds,
        "layout": state.layout,
        "average_updates": state.average_updates,
        "scaler": state.scaler,
        "processes": len(state.data_states),
    }
    tensors = {name: tensor.contiguous() for name, tensor in state.tensors.items()}
    for rank, data_state in enumerate(state.data_states):
        content = bytearray(json.dumps(data_state).encode())
        tensors[f"place.{rank}"] = torch.frombuffer(content, dtype=torch.uint8)
    with write_aside(path) as aside:
        save_file(tensors, aside, metadata={"run": json.dumps(header)})


def load_state(path: Path) -> TrainingState:
    """Read a state.

    Raises:
        InputError: The file is no state, or it is damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = parse_json(file.metadata()["run"], f"the header of {path}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        data_states = [
            parse_json(bytes(tensors.pop(f"place.{rank}").tolist()), f"a data state in {path}")
            for rank in range(header.pop("processes"))
        ]
        header["step"] = checked_step(header["step"], path)
        header["average_updates"] = checked_step(header["average_updates"], path)
        return TrainingState(tensors=tensors, data_states=data_states, **header)
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(
            f"{path} cannot be read as a training state ({error}). Remove it to start anew"
        ) from error


def data_seed_of(path: Path, seed: int, *, batch: int, processes: int) -> int:
    """Return the seed of the data stream of a run.

    Processes cannot take over each other's positions in the data. If batch or processes changed,
    the run resumes with pairs drawn anew, from a seed that was not used yet.
    """
    if not path.exists():
        return seed
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = parse_json(file.metadata()["run"], f"the header of {path}")
        before = header["layout"]
        if (before["batch"], before["processes"]) == (batch, processes):
            return int(before["data_seed"])
        return int(before["data_seed"]) + 1 + int(header["step"])
    except _DAMAGE:
        return seed  # `load_state` reports what is wrong with it
