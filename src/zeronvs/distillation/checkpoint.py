"""Checkpoint of a distillation run: weights, optimisers, step, and identity of the run.

One safetensors file, written aside and renamed, so that a kill at any moment leaves the last whole
checkpoint. No pickle. Random numbers need no state: every step seeds its own from (seed, step).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from zeronvs._core.errors import InputError
from zeronvs._core.files import parse_json, write_aside
from zeronvs._core.resumable import checked_step, differences

FILE_NAME = "checkpoint.safetensors"
_OPTIMIZER = "optimizer."
_SCENE = "scene."
_VIEWS = "views."


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """The state of a run after some whole number of steps."""

    step: int
    """Steps done."""
    seconds: float
    """Time worked so far, over all parts of the run."""
    identity: dict[str, Any]
    """Inputs and settings that must be unchanged for a run to resume."""
    tensors: dict[str, Tensor]


def capture(
    scene: nn.Module,
    optimizers: Mapping[str, torch.optim.Optimizer],
    views: Mapping[str, Tensor],
    *,
    step: int,
    seconds: float,
    identity: dict[str, Any],
) -> Checkpoint:
    """Collect the state of a run; the tensors are those in use, not copies."""
    tensors = {_SCENE + name: tensor for name, tensor in scene.state_dict().items()}
    tensors |= {_VIEWS + name: tensor for name, tensor in views.items()}
    for optimizer_name, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            for key, tensor in state.items():
                tensors[f"{_OPTIMIZER}{optimizer_name}.{index}.{key}"] = torch.as_tensor(tensor)
    return Checkpoint(step=step, seconds=seconds, identity=identity, tensors=tensors)


def restore(
    checkpoint: Checkpoint,
    scene: nn.Module,
    optimizers: Mapping[str, torch.optim.Optimizer],
    views: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Put the state back into a scene and optimisers built from the same settings.

    Args:
        views: What `capture` is given at the start of a run.

    Returns:
        What it was given when the checkpoint was made.

    Raises:
        InputError: The tensors are not those of this scene, these optimisers and views.
    """
    _check_tensors(checkpoint, scene, optimizers, views)
    weights = {
        name.removeprefix(_SCENE): tensor
        for name, tensor in checkpoint.tensors.items()
        if name.startswith(_SCENE)
    }
    scene.load_state_dict(weights)
    for optimizer_name, optimizer in optimizers.items():
        prefix = f"{_OPTIMIZER}{optimizer_name}."
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in checkpoint.tensors.items():
            if name.startswith(prefix):
                index, key = name.removeprefix(prefix).split(".")
                state.setdefault(int(index), {})[key] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    return {name: checkpoint.tensors[_VIEWS + name] for name in views}


def _check_tensors(
    checkpoint: Checkpoint,
    scene: nn.Module,
    optimizers: Mapping[str, torch.optim.Optimizer],
    views: Mapping[str, Tensor],
) -> None:
    """Compare names, shapes and numbers of all tensors with those that are expected.

    Adam keeps a state for each parameter that has had a gradient: `exp_avg`, `exp_avg_sq`, `step`.
    """
    wanted = {_SCENE + name: tuple(value.shape) for name, value in scene.state_dict().items()}
    wanted |= {_VIEWS + name: tuple(value.shape) for name, value in views.items()}
    for optimizer_name, optimizer in optimizers.items():
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for index, parameter in enumerate(parameters):
            prefix = f"{_OPTIMIZER}{optimizer_name}.{index}."
            shape = tuple(parameter.shape)
            state = {"exp_avg": shape, "exp_avg_sq": shape, "step": ()}
            of_state = {prefix + key: shape for key, shape in state.items()}
            if any(name in checkpoint.tensors for name in of_state):
                wanted |= of_state
        prefix = f"{_OPTIMIZER}{optimizer_name}."
        if checkpoint.step and not any(name.startswith(prefix) for name in checkpoint.tensors):
            raise InputError(f"the checkpoint lacks the state of the optimiser {optimizer_name!r}")
    for name in [*wanted, *checkpoint.tensors]:
        tensor = checkpoint.tensors.get(name)
        if tensor is None or name not in wanted or tuple(tensor.shape) != wanted[name]:
            raise InputError(
                f"the checkpoint does not fit this run: {name} is missing, unknown or of another "
                "shape. Run again without --resume"
            )
        if not bool(tensor.isfinite().all()):
            raise InputError(
                f"the checkpoint holds numbers that are not finite ({name}). Run again without "
                "--resume"
            )


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint, whole or not at all."""
    header = {
        "step": checkpoint.step,
        "seconds": checkpoint.seconds,
        "identity": checkpoint.identity,
        "tensors": len(checkpoint.tensors),
    }
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
    with write_aside(path) as aside:
        safetensors.torch.save_file(tensors, aside, metadata={"run": json.dumps(header)})


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        InputError: The file is no checkpoint, or it is damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = parse_json(file.metadata()["run"], "its header")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        seconds = float(header["seconds"])
        if not isinstance(header["identity"], dict) or not 0 <= seconds < math.inf:
            raise ValueError("its header is damaged")
        if header["tensors"] != len(tensors):
            raise ValueError(f"{len(tensors)} of {header['tensors']} tensors are there")
        step = checked_step(header["step"], path)
        return Checkpoint(step=step, seconds=seconds, identity=header["identity"], tensors=tensors)
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        message = f"{path} cannot be read as a checkpoint ({error}). Run again without --resume."
        raise InputError(message) from error


def check_same_run(saved: dict[str, Any], current: dict[str, Any], path: Path) -> None:
    """Refuse to resume with other settings than the run was started with.

    Raises:
        InputError: Something differs; the message names each difference.
    """
    different = differences(saved, json.loads(json.dumps(current)))
    if different:
        raise InputError(
            f"the run in {path.parent} was started with other settings: {'; '.join(different)}. "
            "Resume with the same settings, or start anew in another folder."
        )
