"""What training needs to go on after a stop: weights, average, optimiser, place in the data.

One safetensors file, written aside and renamed, so that a kill at any moment leaves the last whole
state. No pickle: a state may come from somebody else. Random numbers need no state.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zeronvs._core.errors import InputError
from zeronvs._core.files import write_aside
from zeronvs.training.average import WeightAverage

FILE_NAME = "state.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingState:
    """The state after some whole number of steps."""

    step: int
    """Steps done."""
    seconds: float
    """Time worked so far, over all parts of the run."""
    identity: dict[str, Any]
    """Settings that must be the same for the run to go on."""
    layout: dict[str, int]
    """Batch, processes and seed of the pairs; of another layout, the places say nothing."""
    places: list[Any]
    """The state of the loader of each process, as JSON has it."""
    average_updates: int
    scaler: dict[str, float] | None
    """Of the gradient scaler of fp16."""
    tensors: dict[str, Tensor]


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
    """Put the tensors of a state back into parts built from the same settings.

    Raises:
        InputError: The state is of another model.
    """
    tensors, parameters = state.tensors, trained_parameters(model)
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
        per_parameter = {
            index: {slot: tensors[f"optimizer.{slot}.{name}"] for slot in slots}
            for index, name in enumerate(order)
        }
        optimizer.load_state_dict({"state": per_parameter, "param_groups": groups})
    except (KeyError, RuntimeError) as error:
        raise InputError(
            f"the kept state is of another model ({str(error).splitlines()[0]}). "
            "Train into another folder"
        ) from error


def save_state(path: Path, state: TrainingState) -> None:
    """Write a state, whole or not at all."""
    header = {
        "step": state.step,
        "seconds": state.seconds,
        "identity": state.identity,
        "layout": state.layout,
        "average_updates": state.average_updates,
        "scaler": state.scaler,
        "processes": len(state.places),
    }
    tensors = {name: tensor.contiguous() for name, tensor in state.tensors.items()}
    for rank, place in enumerate(state.places):
        content = bytearray(json.dumps(place).encode())
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
            header = json.loads(file.metadata()["run"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        places = [
            json.loads(bytes(tensors.pop(f"place.{rank}").tolist()))
            for rank in range(header.pop("processes"))
        ]
        return TrainingState(tensors=tensors, places=places, **header)
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a training state ({error}). Remove it to start anew"
        ) from error


def pair_seed_of(path: Path, seed: int, *, batch: int, processes: int) -> int:
    """Return the seed that the pairs of a run are to be drawn with.

    Processes cannot take each other's places in the data. So where batch or processes are others
    than before, the run goes on with pairs that are drawn anew, by a seed that was not used yet.

    Args:
        path: The state of the run, where there is one.
        seed: Of a new run.
        batch: Pairs at once in one process.
        processes: Processes that train together.
    """
    if not path.exists():
        return seed
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["run"])
        before = header["layout"]
        if (before["batch"], before["processes"]) == (batch, processes):
            return int(before["pair_seed"])
        return int(before["pair_seed"]) + 1 + int(header["step"])
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError):
        return seed  # `load_state` says what is wrong with it


def check_same_run(saved: Mapping[str, Any], current: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on with other settings than the run was started with.

    Raises:
        InputError: Something differs; the message names each difference.
    """
    now = json.loads(json.dumps(current))
    different = [
        f"{name} was {saved.get(name)!r} and is now {now.get(name)!r}"
        for name in sorted({*saved, *now})
        if saved.get(name) != now.get(name)
    ]
    if different:
        raise InputError(
            f"the training in {folder} was started with other settings: {'; '.join(different)}. "
            "Give the same settings, or another folder with -o"
        )
