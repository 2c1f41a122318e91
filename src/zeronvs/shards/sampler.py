"""Sampling of pairs of frames for training, without reading pixels.

Every draw comes from a generator seeded by its own position (seed, source, rank, visit, ...), so
the order depends neither on workers nor on the machine, and the state is a few counters and the
shuffle buffer. Published sampling: ldm/data/webdataset_co3d.py (int(rate * frames) ordered pairs
per scene, uniform, no baseline limit) and webdataset_utils.py (shards drawn with replacement,
shuffle buffer, a data set drawn for each item).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Int

from zeronvs._core.errors import InputError
from zeronvs.shards.overlap import SourceTable, predict_overlap

_ORDER, _ITEM, _PAIR, _REPLACEMENT = range(4)
"""Purpose of a generator: part of its seed."""
_CHUNK = 4
"""Number of pairs whose overlap is predicted at once."""
_MASK = (1 << 64) - 1


@dataclass(frozen=True, kw_only=True)
class PairSamplingConfig:
    """Settings of the sampler of training pairs; the defaults are published unless noted."""

    pairs_per_frame: float = 0.025
    """A scene of n frames gives int(pairs_per_frame * n) pairs a visit."""
    least_pairs_per_scene: int = 1
    """At least so many. Published: 0, so that scenes with fewer than 40 frames are never drawn."""
    shuffle_buffer: int = 500
    """Pairs of a source wait in a buffer of this size and leave it at random."""
    resample_shards: bool = False
    """Published: True, shards are drawn with replacement. False visits every scene once an epoch,
    in an order that changes each epoch."""
    overlap: tuple[float, float] | None = None
    """Share of the input view that is visible in the target, (least, most) in [0, 1], predicted
    from cameras and depth statistics. None: no limit, as published."""
    overlap_tries: int = 16
    """Maximum number of pairs tried; if none is in the range, the nearest is taken."""
    seed: int = 42


@dataclass(frozen=True)
class FramePair:
    """Indices of one pair, and its position in the order of sampling."""

    source: int
    scene: int
    """Row in the index of the source."""
    input: int
    """Frame of the scene, in the order of the tar."""
    target: int
    visit: int
    draw: int


class PairSampler:
    """An endless stream of batches of pairs for one rank; see the module."""

    def __init__(
        self,
        sources: Sequence[tuple[SourceTable, float]],
        config: PairSamplingConfig,
        *,
        batch: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Start at the first batch.

        Args:
            sources: Tables and weights (> 0; they need not sum to 1).
            world_size: Number of ranks. No scene is drawn by two of them; where a source has fewer
                scenes than ranks, no ordered pair is.

        Raises:
            InputError: There is nothing to draw from, or a setting is out of range.
        """
        _check(sources, config, batch, rank, world_size)
        weights = np.array([weight for _, weight in sources], dtype=np.float64)
        self._probability = weights / weights.sum()
        self._config, self._batch = config, batch
        self._rank, self._world_size = rank, world_size
        self._done = 0
        self._streams = [
            _SourceStream(number, table, config, rank, world_size)
            for number, (table, _) in enumerate(sources)
        ]

    def next_batch(self) -> list[FramePair]:
        """Draw the next batch."""
        return [stream.pop(position) for stream, position in self._draw()]

    def replacement(self, pair: FramePair, attempt: int) -> FramePair:
        """Return a pair to replace one that cannot be decoded."""
        return self._streams[pair.source].replacement(pair, attempt)

    def state_dict(self) -> dict[str, Any]:
        """Return the state: plain lists and numbers, for JSON or torch.save."""
        return {
            "done": self._done,
            "rank": self._rank,
            "settings": self._settings(),
            "streams": [stream.state() for stream in self._streams],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a state: the batches that follow are those of an uninterrupted run.

        The state of another rank of the same run serves as well; then the order up to there is
        replayed, without drawing pairs.

        Raises:
            InputError: The state is of other data, settings or number of ranks.
        """
        try:
            theirs, done, rank = state["settings"], int(state["done"]), int(state["rank"])
            streams = state["streams"]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"this is no state of a pair loader: {error!r}") from error
        ours = self._settings()
        if theirs != ours:
            differ = sorted(key for key in ours if theirs.get(key) != ours[key])
            what = ", ".join(f"{key} {theirs.get(key)!r}, now {ours[key]!r}" for key in differ)
            raise InputError(f"the loader's state is of another run: {what[:300]}")
        if rank == self._rank:
            for stream, stored in zip(self._streams, streams, strict=True):
                stream.restore(stored)
            self._done = done
            return
        for stream in self._streams:
            stream.restart()
        self._done = 0
        while self._done < done:
            for stream, position in self._draw():
                stream.take(position)

    def _draw(self) -> list[tuple["_SourceStream", float]]:
        """Draw the source of each pair of the next batch, and its position in the buffer."""
        rng = np.random.default_rng([self._config.seed, _ITEM, self._rank, self._done])
        chosen = rng.choice(len(self._streams), self._batch, p=self._probability)
        positions = rng.random(self._batch)
        self._done += 1
        return [(self._streams[s], float(p)) for s, p in zip(chosen, positions, strict=True)]

    def _settings(self) -> dict[str, Any]:
        names = [field.name for field in fields(PairSamplingConfig)]
        config = {name: getattr(self._config, name) for name in names}
        config["overlap"] = None if self._config.overlap is None else list(self._config.overlap)
        return {
            **config,
            "batch": self._batch,
            "world_size": self._world_size,
            "probability": [float(value) for value in self._probability],
            "scenes": [len(stream.table.frames) for stream in self._streams],
            "frames": [int(stream.table.frames.sum()) for stream in self._streams],
        }


class _SourceStream:
    """The pairs of one source for one rank: scenes in order, then the shuffle buffer."""

    def __init__(
        self,
        number: int,
        table: SourceTable,
        config: PairSamplingConfig,
        rank: int,
        world_size: int,
    ) -> None:
        self.table = table
        self._number, self._config = number, config
        self._rank, self._world_size = rank, world_size
        pairs = (config.pairs_per_frame * table.frames).astype(np.int64)
        self._pairs = np.maximum(pairs, config.least_pairs_per_scene)
        self._groups = self._own_groups()
        self._alone = len(self._pairs) >= world_size
        if not any(self._pairs[group].any() for group in self._groups):
            raise InputError(
                f"source {number} gives no pair to rank {rank}: its scenes have too few frames for "
                f"pairs_per_frame {config.pairs_per_frame}; set least_pairs_per_scene to 1"
            )
        self.restart()

    def restart(self) -> None:
        self._epoch, self._visit = -1, 0
        self._order: list[int] = []
        self._position = 0
        self._buffer: list[tuple[int, int, int]] = []

    def state(self) -> dict[str, Any]:
        return {
            "epoch": self._epoch,
            "visit": self._visit,
            "position": self._position,
            "buffer": [list(entry) for entry in self._buffer],
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._epoch, self._visit = int(state["epoch"]), int(state["visit"])
        self._order = self._order_of(self._epoch) if self._epoch >= 0 else []
        self._position = int(state["position"])
        self._buffer = [(int(a), int(b), int(c)) for a, b, c in state["buffer"]]

    def take(self, position: float) -> tuple[int, int, int]:
        """Take (scene, visit, draw) out of the buffer, at a position in [0, 1)."""
        while len(self._buffer) < max(1, self._config.shuffle_buffer):
            self._visit_next()
        # Remove in O(1): the last entry takes the place of the drawn one.
        index = int(position * len(self._buffer))
        taken, last = self._buffer[index], self._buffer.pop()
        if index < len(self._buffer):
            self._buffer[index] = last
        return taken

    def pop(self, position: float) -> FramePair:
        return self._pair(*self.take(position), attempt=None)

    def replacement(self, pair: FramePair, attempt: int) -> FramePair:
        rng = self._generator(_REPLACEMENT, pair.visit, pair.draw, attempt)
        group = self._groups[int(rng.integers(len(self._groups)))]
        scene = int(group[int(rng.integers(len(group)))])
        return self._pair(scene, pair.visit, pair.draw, attempt=attempt)

    def _visit_next(self) -> None:
        while self._position >= len(self._order):
            self._epoch += 1
            self._order, self._position = self._order_of(self._epoch), 0
        scene = self._order[self._position]
        self._position += 1
        self._buffer.extend((scene, self._visit, draw) for draw in range(self._pairs[scene]))
        self._visit += 1

    def _order_of(self, epoch: int) -> list[int]:
        rng = self._generator(_ORDER, epoch)
        if self._config.resample_shards:
            return [int(scene) for scene in self._groups[int(rng.integers(len(self._groups)))]]
        scenes = np.concatenate(self._groups)
        return [int(scene) for scene in rng.permutation(scenes)]

    def _own_groups(self) -> list[Int[np.ndarray, " n"]]:
        """Return the scenes of this rank, shard by shard."""
        scenes = np.arange(len(self.table.frames))
        by_shard = [scenes[self.table.shard_of == k] for k in range(len(self.table.shards))]
        by_shard = [group for group in by_shard if len(group)]
        # Fewer scenes than ranks: all ranks share them, and `_candidate` splits their pairs.
        if len(scenes) < self._world_size:
            return by_shard
        # As published: whole shards, in turn, where there are enough of them.
        if self._config.resample_shards and len(by_shard) >= self._world_size:
            return by_shard[self._rank :: self._world_size]
        # Else single scenes, in turn.
        own = [group[group % self._world_size == self._rank] for group in by_shard]
        return [group for group in own if len(group)]

    def _pair(self, scene: int, visit: int, draw: int, *, attempt: int | None) -> FramePair:
        spare = () if attempt is None else (attempt,)
        rng = mix(self._config.seed, _PAIR, self._rank, self._number, visit, draw, *spare)
        frames = int(self.table.frames[scene])
        pair = self._candidate(rng, frames)
        if self._config.overlap is not None:
            pair = self._overlapping(rng, scene, frames, *self._config.overlap)
        return FramePair(self._number, scene, *pair, visit, draw)

    def _overlapping(
        self, rng: int, scene: int, frames: int, least: float, most: float
    ) -> tuple[int, int]:
        """Return the first tried pair whose overlap is in the range, else the nearest to it."""
        best, best_miss = (0, 1), float("inf")
        for start in range(0, self._config.overlap_tries, _CHUNK):
            stop = min(start + _CHUNK, self._config.overlap_tries)
            pairs = [self._candidate(mix(rng, k), frames) for k in range(start, stop)]
            inputs, targets = np.array(pairs).T
            overlap = predict_overlap(self.table, scene, inputs, targets)
            miss = np.maximum(least - overlap, 0) + np.maximum(overlap - most, 0)
            first = int(miss.argmin())
            if miss[first] < best_miss:
                best, best_miss = pairs[first], float(miss[first])
            if best_miss == 0:
                break
        return best

    def _candidate(
        self, rng: int, frames: int
    ) -> tuple[
        int,  # input frame
        int,  # target frame, never the input frame
    ]:
        """Draw an ordered pair uniformly; with fewer scenes than ranks, only this rank's."""
        # Number the ordered pairs 0 to count - 1; 64 random bits times count >> 64 is uniform.
        count = frames * (frames - 1)
        code = rng * count >> 64
        # Shared scenes: this rank has the numbers congruent to it; the last, partial block wraps.
        if not self._alone and count >= self._world_size:
            code = code // self._world_size * self._world_size + self._rank
            code = code if code < count else self._rank
        # The number is (input, target among the other frames): targets from the input on shift up.
        input_frame, target = divmod(code, frames - 1)
        return input_frame, target + (target >= input_frame)

    def _generator(self, purpose: int, *position: int) -> np.random.Generator:
        return np.random.default_rng(
            [self._config.seed, purpose, self._rank, self._number, *position]
        )


def mix(*numbers: int) -> int:
    """Return 64 random bits that the numbers decide (splitmix64, Steele et al. 2014)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ state >> 27) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def _check(
    sources: Sequence[tuple[SourceTable, float]],
    config: PairSamplingConfig,
    batch: int,
    rank: int,
    world_size: int,
) -> None:
    if not sources or any(not 0 < weight < float("inf") for _, weight in sources):
        raise InputError("a mixture needs at least one source, each with a weight above 0")
    for number, (table, _) in enumerate(sources):
        if not len(table.frames):
            raise InputError(f"source {number} has no scene with two usable frames")
    if batch < 1 or not 0 <= rank < world_size:
        raise InputError(f"batch is {batch}, rank {rank} of {world_size}: batch >= 1, rank < ranks")
    if config.pairs_per_frame < 0 or config.least_pairs_per_scene < 0 or config.overlap_tries < 1:
        raise InputError("pairs_per_frame, least_pairs_per_scene >= 0 and overlap_tries >= 1")
    if config.overlap is not None and not 0 <= config.overlap[0] <= config.overlap[1] <= 1:
        raise InputError(f"overlap is {config.overlap}; least and most must lie in [0, 1]")
    if config.seed < 0:
        raise InputError(f"seed is {config.seed}; it must not be negative")
