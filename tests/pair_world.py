"""Pairs made up from their numbers, dealt to any number of processes as one would take them."""

from collections.abc import Iterator
from typing import Any

import torch

from zeronvs.cameras.embedding import Representation
from zeronvs.cameras.poses import orbit_pose
from zeronvs.shards.loader import PairBatch

SIZE_PX = 16


def made_up_pair(number: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    coarse = torch.rand(2, 3, 4, 4, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (SIZE_PX, SIZE_PX), mode="bilinear")
    angles = torch.rand(2, 2, generator=generator)
    poses = orbit_pose(angles[:, 0], angles[:, 1], torch.ones(2))
    images = (images * 255).to(torch.uint8)
    return {
        "input_image": images[0],
        "target_image": images[1],
        "input_to_world": poses[0],
        "target_to_world": poses[1],
        "fov_y_rad": 0.6 + 0.4 * torch.rand((), generator=generator),
        "scale": 0.5 + torch.rand((), generator=generator),
        "input_depth_z": 1 + torch.rand(SIZE_PX, SIZE_PX, generator=generator),
    }


def made_up_batch(numbers: list[int], *, with_depth: bool = False) -> PairBatch:
    pairs = [made_up_pair(number) for number in numbers]
    columns = {name: torch.stack([pair[name] for pair in pairs]) for name in pairs[0]}
    scale, depth = columns.pop("scale"), columns.pop("input_depth_z")
    scales = {representation: scale for representation in Representation}
    return PairBatch(**columns, scene_scale=scales, input_depth_z=depth if with_depth else None)


class MadeUpPairs:
    """The pairs of one process of several; with `total`, the same few again and again."""

    def __init__(
        self, batch: int, rank: int = 0, processes: int = 1, total: int | None = None
    ) -> None:
        self.batch, self.rank, self.processes, self.total = batch, rank, processes, total
        self.taken = 0
        self.with_depth = False

    def __iter__(self) -> Iterator[PairBatch]:
        while True:
            first = (self.taken * self.processes + self.rank) * self.batch
            self.taken += 1
            numbers = list(range(first, first + self.batch))
            if self.total is not None:
                numbers = [number % self.total for number in numbers]
            yield made_up_batch(numbers, with_depth=self.with_depth)

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.taken = state["taken"]
