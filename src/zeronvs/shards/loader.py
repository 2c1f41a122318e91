"""Endless batches of training pairs from shards: mixed, shuffled, resumable.

The order is drawn in the main process (`sampler`), and workers only decode: pairs depend on seed,
data and number of ranks only, and a resumed run draws the pairs of an uninterrupted one, with any
number of workers. Depth maps are decoded only where they are returned, or needed for a scale that
the index lacks.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from zeronvs._core.errors import InputError
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs.cameras.embedding import Representation
from zeronvs.shards.batch import PairBatch, PairReader, PairReading
from zeronvs.shards.index import ShardIndex, open_index
from zeronvs.shards.overlap import source_table
from zeronvs.shards.sampler import FramePair, PairSampler, PairSamplingConfig
from zeronvs.shards.tar import OnDamage, ShardDamage, shard_paths

__all__ = ["PUBLISHED_LOADER", "PairBatch", "PairLoader", "PairLoaderConfig", "open_shards"]

PREFETCHED_BATCHES = 4
"""Batches that each worker prepares ahead, as published."""


@dataclass(frozen=True, kw_only=True)
class PairLoaderConfig(PairSamplingConfig, PairReading):
    """Settings of sampling and reading pairs."""


PUBLISHED_LOADER = PairLoaderConfig(least_pairs_per_scene=0, resample_shards=True, fov="published")
"""All settings of the published loader."""


class PairLoader:
    """Batches of pairs for one rank; see the module."""

    def __init__(
        self,
        sources: Sequence[tuple[Path | str, float]],
        config: PairLoaderConfig | None = None,
        *,
        batch: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        on_damage: OnDamage | None = None,
        progress: Progress = silent,
    ) -> None:
        """Open the shards of all sources; the first time, each is indexed (see `index`).

        Args:
            sources: Folders of shards (or single tar files) and their weights in the mixture.
                Published: CO3D .34, RealEstate10K .33, ACID .33.
            rank: Rank of this process; no two ranks draw the same scene.
            workers: Number of decoding processes, 0 for none; it changes only the speed.
            on_damage: Called for everything that cannot be used and is left out.

        Raises:
            InputError: A source holds no shard, or nothing usable; or a setting is out of range.
        """
        self.config = config or PairLoaderConfig()
        if Representation.SIX_DOF_METRIC in self.config.representations:
            raise InputError(f"no shard holds the scale of {Representation.SIX_DOF_METRIC.value!r}")
        self.damaged = 0
        """Damages so far: members, frames and shards, and pairs that were replaced."""
        self._on_damage, self._workers = on_damage, workers
        with_depth = Representation.SIX_DOF_AGG in self.config.representations
        opened = [
            (
                source_table(
                    open_shards(
                        Path(source),
                        with_depth=with_depth,
                        on_damage=self._damage,
                        progress=progress,
                    )
                ),
                float(weight),
            )
            for source, weight in sources
        ]
        self._sampler = PairSampler(
            opened, self.config, batch=batch, rank=rank, world_size=world_size
        )
        self._reader = PairReader([table for table, _ in opened], self.config, self._sampler)
        self._state = self._sampler.state_dict()

    def __iter__(self) -> Iterator[PairBatch]:
        """Yield batches without end, from the loader's state on; one iterator at a time."""
        self._sampler.load_state_dict(self._state)
        states: deque[dict[str, Any]] = deque()
        for batch, damages in self._decoded(self._drawn(states)):
            self._state = states.popleft()
            for damage in damages:
                self._damage(damage)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the batch that was yielded last: plain lists and numbers."""
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a state, of this rank or another one of the same run.

        Takes effect with the next `iter()`.

        Raises:
            InputError: The state is of other data, settings or number of ranks.
        """
        self._sampler.load_state_dict(state)
        self._state = self._sampler.state_dict()

    def close(self) -> None:
        """Close open shards."""
        self._reader.close()

    def _drawn(self, states: deque[dict[str, Any]]) -> Iterator[list[FramePair]]:
        while True:
            pairs = self._sampler.next_batch()
            states.append(self._sampler.state_dict())
            yield pairs

    def _decoded(
        self, drawn: Iterator[list[FramePair]]
    ) -> Iterator[tuple[PairBatch, list[ShardDamage]]]:
        if self._workers == 0:
            for pairs in drawn:
                yield self._reader[pairs]
            return
        loader = DataLoader(
            cast(Dataset, self._reader),
            batch_size=None,
            sampler=cast(Sampler, drawn),
            num_workers=self._workers,
            prefetch_factor=PREFETCHED_BATCHES,
            # The worker's seeds come from here: the caller's random numbers stay untouched.
            generator=torch.Generator().manual_seed(self.config.seed),
        )
        yield from loader

    def _damage(self, damage: ShardDamage) -> None:
        self.damaged += 1
        if self._on_damage is not None:
            self._on_damage(damage)


def open_shards(
    source: Path,
    *,
    with_depth: bool = False,
    on_damage: OnDamage | None = None,
    progress: Progress = silent,
) -> list[ShardIndex]:
    """Open all shards of a folder, or one tar file; each is indexed where it is not yet.

    Args:
        on_damage: Called for damage; a shard that cannot be read at all is damage too.

    Raises:
        InputError: There is no tar file.
    """
    paths = shard_paths(source)
    if not paths:
        raise InputError(
            f"{source} has no shards (*.tar); write them with zeronvs.shards.convert",
            argument="source",
        )
    opened = []
    for number, path in enumerate(paths, 1):
        progress(ProgressEvent("index shards", number, len(paths)))
        try:
            opened.append(open_index(path, with_depth=with_depth, on_damage=on_damage))
        except InputError as error:
            if on_damage is not None:
                on_damage(ShardDamage(path, "", str(error)))
    return opened
