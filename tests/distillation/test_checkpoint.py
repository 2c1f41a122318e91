"""The checkpoint of a distillation: its way back, and what is not resumed from."""

import json
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from zeronvs._core.errors import InputError
from zeronvs.distillation.checkpoint import capture, load_checkpoint, restore, save_checkpoint

VIEWS = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def trained(steps: int = 2) -> tuple[nn.Module, dict[str, torch.optim.Optimizer]]:
    """Return a model and its optimisers after some steps; one parameter never has a gradient."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"field": nn.Linear(3, 2), "proposal": nn.Linear(2, 1)})
    model["field"].register_parameter("unused", nn.Parameter(torch.zeros(4)))
    optimizers = {name: torch.optim.Adam(part.parameters(), lr=0.1) for name, part in model.items()}
    for _ in range(steps):
        model["proposal"](model["field"](torch.ones(1, 3))).sum().backward()
        for optimizer in optimizers.values():
            optimizer.step()
    return model, optimizers


@pytest.fixture
def path(tmp_path):
    model, optimizers = trained()
    state = capture(model, optimizers, {"image": VIEWS}, step=2, seconds=1.5, identity={"seed": 1})
    save_checkpoint(tmp_path / "checkpoint.safetensors", state)
    return tmp_path / "checkpoint.safetensors"


def test_a_state_is_brought_back_whole(path):
    model, optimizers = trained(steps=0)
    checkpoint = load_checkpoint(path)
    views = restore(checkpoint, model, optimizers, {"image": torch.zeros_like(VIEWS)})
    assert torch.equal(views["image"], VIEWS)
    assert (checkpoint.step, checkpoint.seconds, checkpoint.identity) == (2, 1.5, {"seed": 1})
    expected, states = trained()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    for name, optimizer in states.items():
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                found = optimizers[name].state_dict()["state"][index][key]
                assert torch.equal(found, value)


def without(part: str):
    """Return a change that drops tensors, and one whose header counts only what is left."""

    def change(tensors: dict, header: dict) -> None:
        for name in [name for name in tensors if part in name]:
            del tensors[name]
        header["tensors"] = len(tensors)

    return change


def with_tensor(name: str, tensor: torch.Tensor):
    return lambda tensors, header: tensors.update({name: tensor})


def with_header(**values: object):
    return lambda tensors, header: header.update(values)


@pytest.mark.parametrize(
    "change",
    [
        without("optimizer."),
        without("optimizer.field."),
        without("exp_avg_sq"),
        without("field.0.step"),
        without("scene.field.weight"),
        lambda tensors, header: tensors.pop("optimizer.proposal.1.step"),
        lambda tensors, header: [
            tensors.pop(name) for name in list(tensors) if name.startswith("optimizer.field.1.")
        ],
        with_tensor("optimizer.field.0.exp_avg", torch.zeros(4)),
        with_tensor("optimizer.field.0.exp_avg", torch.zeros(2, 3) / 0),
        with_tensor("optimizer.field.9.exp_avg", torch.zeros(4)),
        with_tensor("optimizer.nobody.0.exp_avg", torch.zeros(4)),
        with_tensor("scene.field.weight", torch.full((2, 3), math.nan)),
        with_tensor("scene.field.weight", torch.zeros(3, 3)),
        with_header(step=-3),
        with_header(step=1.5),
        with_header(step=True),
        with_header(seconds="long"),
        with_header(seconds=-1),
        with_header(identity=[]),
        with_header(tensors=3),
        lambda tensors, header: header.pop("step"),
    ],
)
def test_a_damaged_checkpoint_is_not_resumed_from(path, change):
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["run"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    change(tensors, header)
    save_file(tensors, path, {"run": json.dumps(header)})
    model, optimizers = trained(steps=0)
    with pytest.raises(InputError) as caught:
        restore(load_checkpoint(path), model, optimizers, {"image": VIEWS})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("header", ["[" * 100_000, "[]", "null", "1e999"])
def test_a_damaged_header_is_refused_in_one_line(path, header):
    save_file({"a": torch.zeros(1)}, path, {"run": header})
    with pytest.raises(InputError, match="without --resume"):
        load_checkpoint(path)
