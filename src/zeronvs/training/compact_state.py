"""A training state of 22 bits a parameter, small enough to be carried to another machine.

Weights are kept in half precision; their average as its difference to them, in 4 bits; Adam's
second moment by the means of its rows and columns (as Adafactor keeps it, arXiv:1804.04235); the
first moment not at all, as it is made anew within ten steps. What is lost by this is lost in the
run that goes on, too: `settle` puts the stored values in place of the live ones, so a run that was
cut off and one that was not are the same.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from zeronvs._core.errors import InputError
from zeronvs._core.files import write_aside

FILE_NAME = "state.safetensors"
BLOCK = 64
"""Neighbouring numbers that share a scale of their 4 bits."""
LEVELS = 7
"""Steps of 4 bits to either side of zero."""


def capture(
    modules: nn.Module, average: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Return the state as tensors by name; `optimizer` is an Adam of the parameters of `modules`.

    Args:
        modules: What is trained.
        average: Moving average of everything in the state dict of `modules`.
        optimizer: Adam or AdamW; its step count is not kept (see `settle`).
    """
    tensors = {}
    for name, weight in modules.state_dict().items():
        stored = _half(weight)
        tensors[f"weights.{name}"] = stored
        if not weight.is_floating_point():
            tensors[f"average.{name}"] = average[name].clone()
            continue
        codes, scale = quantize(average[name] - stored.to(weight.dtype))
        tensors[f"average_codes.{name}"], tensors[f"average_scale.{name}"] = codes, scale
    for name, parameter in modules.named_parameters():
        moment = optimizer.state.get(parameter, {}).get("exp_avg_sq")
        if moment is not None:
            rows, columns = factor(moment)
            tensors[f"moment_rows.{name}"], tensors[f"moment_columns.{name}"] = rows, columns
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


@torch.no_grad()
def settle(
    tensors: Mapping[str, Tensor],
    modules: nn.Module,
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    step: int,
) -> None:
    """Make the live state what a stored one says.

    Args:
        tensors: From `capture`.
        modules: Gets the weights.
        average: Gets the averages.
        optimizer: Gets the second moments, and first moments of zero.
        step: Steps done, which Adam's bias correction counts.

    Raises:
        InputError: The state is of another model.
    """
    weights = under(tensors, "weights.")
    try:
        modules.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
        )
        average.update(stored_average(tensors, average))
    except (KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the training state is of another model: {reason}") from error
    for name, parameter in modules.named_parameters():
        if f"moment_rows.{name}" not in tensors:
            continue
        rows, columns = tensors[f"moment_rows.{name}"], tensors[f"moment_columns.{name}"]
        optimizer.state[parameter] = {
            "step": torch.tensor(float(step)),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": unfactor(rows, columns, parameter.shape).to(parameter.device),
        }


def save_state(
    state_dir: Path,
    modules: nn.Module,
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    step: int,
) -> None:
    """Write the state after `step` steps, whole or not at all, and settle for what it keeps."""
    tensors = capture(modules, average, optimizer)
    with write_aside(state_dir / FILE_NAME) as aside:
        save_file(tensors, aside, {"step": str(step)})
    settle(tensors, modules, average, optimizer, step)


def load_state(
    state_dir: Path,
    modules: nn.Module,
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> int:
    """Settle for the state in a folder, if there is one, and return its steps, else 0.

    Raises:
        InputError: The state is of another model, or damaged.
    """
    path = state_dir / FILE_NAME
    if not path.exists():
        return 0
    try:
        with safe_open(path, "pt") as opened:
            step = int(opened.metadata()["step"])
        tensors = load_file(path)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise InputError(f"{path} is no training state: {reason}") from error
    settle(tensors, modules, average, optimizer, step)
    return step


def stored_average(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the averaged weights of a stored state, with the devices of `like`."""
    average = {}
    for name, weight in under(tensors, "weights.").items():
        device = like[name].device
        if not weight.is_floating_point():
            average[name] = tensors[f"average.{name}"].to(device)
            continue
        codes, scale = tensors[f"average_codes.{name}"], tensors[f"average_scale.{name}"]
        difference = dequantize(codes, scale, weight.numel()).view(weight.shape)
        average[name] = (weight.float() + difference).to(device)
    return average


def quantize(values: Float[Tensor, "*shape"]) -> tuple[UInt8[Tensor, " n"], Float[Tensor, " m"]]:
    """Return numbers as 4 bits each, two in a byte, and the scale of each block.

    Args:
        values: Of any shape; each block of 64 has an error of at most 1/14 of its largest.
    """
    flat = values.detach().float().flatten()
    blocks = F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    # The scale that is stored is the one that is divided by: rounded to bfloat16, never to zero.
    scale = (blocks.abs().amax(dim=1) / LEVELS).to(torch.bfloat16)
    divisor = scale.float().clamp_min(torch.finfo(torch.bfloat16).tiny)[:, None]
    codes = ((blocks / divisor).round().clamp(-LEVELS, LEVELS) + LEVELS + 1).to(torch.uint8)
    pairs = codes.view(-1, 2)
    return pairs[:, 0] * 16 + pairs[:, 1], scale


def dequantize(
    codes: UInt8[Tensor, " n"], scale: Float[Tensor, " m"], count: int
) -> Float[Tensor, " count"]:
    """Return the numbers that `quantize` stored."""
    pairs = torch.stack([codes // 16, codes % 16], dim=-1).view(-1, BLOCK)
    values = (pairs.float() - (LEVELS + 1)) * scale.float()[:, None]
    return values.flatten()[:count]


def factor(moment: Tensor) -> tuple[Float[Tensor, " r"], Float[Tensor, " c"]]:
    """Return means over the columns and the rows of a non-negative tensor taken as a matrix."""
    matrix = moment.detach().float().reshape(len(moment), -1) if moment.dim() else moment.view(1, 1)
    return matrix.mean(dim=1), matrix.mean(dim=0)


def unfactor(rows: Float[Tensor, " r"], columns: Float[Tensor, " c"], shape: torch.Size) -> Tensor:
    """Return the matrix of rank one with these means, in a shape."""
    mean = rows.mean().clamp_min(torch.finfo(torch.float32).tiny)
    return (rows[:, None] * columns[None, :] / mean).reshape(shape)


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return what is named with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _half(weight: Tensor) -> Tensor:
    return weight.detach().half() if weight.is_floating_point() else weight.detach().clone()
