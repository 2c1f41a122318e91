"""Numbers of a preference study: shares with 95 % intervals, and agreement of participants."""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zeronvs.evaluation.study_answers import Answer

CONFIDENCE = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class Share:
    """How often the first method was chosen."""

    count: int
    """Answers for the first method."""
    answers: int
    low: float | None
    """Lower end of the 95 % interval; None where there is none."""
    high: float | None

    @property
    def value(self) -> float:
        """The share, in [0, 1]."""
        return self.count / self.answers


def scene_share(answers: Sequence[Answer]) -> Share | None:
    """Return the share with Wilson's interval; None without answers.

    Args:
        answers: One of each participant, so that they are independent.
    """
    from scipy.stats import binomtest

    if not answers:
        return None
    count = sum(answer.chosen == 0 for answer in answers)
    interval = binomtest(count, len(answers)).proportion_ci(CONFIDENCE, method="wilson")
    low, high = float(interval.low), float(interval.high)
    return Share(count=count, answers=len(answers), low=low, high=high)


def overall_share(answers: Sequence[Answer], *, seed: int = 0) -> Share | None:
    """Return the share over all scenes; None without answers.

    The interval is that of the bootstrap over participants, since the answers of one participant
    are not independent; with a single participant there is none.

    Args:
        answers: Of any participants and scenes.
        seed: Of the resampling.
    """
    if not answers:
        return None
    people = sorted({answer.participant for answer in answers})
    number = {person: index for index, person in enumerate(people)}
    chosen, given = np.zeros(len(people)), np.zeros(len(people))
    for answer in answers:
        chosen[number[answer.participant]] += answer.chosen == 0
        given[number[answer.participant]] += 1
    low = high = None
    if len(people) > 1:
        generator = np.random.default_rng(seed)
        drawn = generator.integers(len(people), size=(RESAMPLES, len(people)))
        shares = chosen[drawn].sum(1) / given[drawn].sum(1)
        tails = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
        low, high = (float(value) for value in np.quantile(shares, tails))
    return Share(count=int(chosen.sum()), answers=len(answers), low=low, high=high)


def agreement(answers: Sequence[Answer]) -> float | None:
    """Return Krippendorff's alpha of the answers to one question; the units are the scenes."""
    units: dict[str, dict[str, int]] = defaultdict(dict)
    for answer in answers:
        units[answer.scene][answer.participant] = answer.chosen
    return krippendorff_alpha([list(unit.values()) for unit in units.values()])


def krippendorff_alpha(units: Sequence[Sequence[Hashable]]) -> float | None:
    """Return Krippendorff's alpha for nominal data; missing values are left out of their unit.

    1: all agree, 0: as by chance, below: systematic disagreement. Eq. of Krippendorff, "Computing
    Krippendorff's Alpha-Reliability" (2011), section C.

    Args:
        units: The values that observers gave to each unit.

    Returns:
        Alpha; None where no unit has two values, or all values are the same.
    """
    pairable = [unit for unit in units if len(unit) > 1]
    total = sum(len(unit) for unit in pairable)
    occurring: dict[Hashable, int] = defaultdict(int)  # n_c
    matching = 0.0  # sum over c of o_cc
    for unit in pairable:
        inside: dict[Hashable, int] = defaultdict(int)
        for value in unit:
            inside[value] += 1
            occurring[value] += 1
        matching += sum(n * (n - 1) for n in inside.values()) / (len(unit) - 1)
    by_chance = sum(n * (n - 1) for n in occurring.values())
    if total < 2 or by_chance == total * (total - 1):
        return None
    return ((total - 1) * matching - by_chance) / (total * (total - 1) - by_chance)


def shown_first_share(answers: Sequence[Answer]) -> float | None:
    """Return how often video 1 was chosen, whichever method it showed; None without answers."""
    chosen = sum(answer.chosen == answer.first for answer in answers)
    return chosen / len(answers) if answers else None


def share_json(share: Share) -> Mapping[str, Any]:
    """Return a share for metrics.json."""
    return {
        "value": share.value,
        "low": share.low,
        "high": share.high,
        "count": share.count,
        "answers": share.answers,
    }
