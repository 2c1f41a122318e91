"""Shares, intervals and agreement against known examples, and the laws that they follow."""

import numpy as np
import pytest
from study_folder import SCENES, answer

from zeronvs.evaluation.study_statistics import (
    agreement,
    krippendorff_alpha,
    overall_share,
    scene_share,
    shown_first_share,
)


def test_wilsons_interval_is_that_of_the_textbook():
    # Newcombe (1998), Table I, method 3 (score, without continuity correction): 81 of 263, 15 of
    # 148, 0 of 20, 1 of 29.
    known = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605)}
    known |= {(0, 20): (0.0, 0.1611), (1, 29): (0.0061, 0.1718)}
    for (count, total), interval in known.items():
        people = [answer(str(k), "bonsai", "realistic", int(k >= count)) for k in range(total)]
        share = scene_share(people)
        assert share is not None
        assert (share.count, share.answers, share.value) == (count, total, count / total)
        assert (share.low, share.high) == pytest.approx(interval, abs=5e-5)


def test_nothing_was_asked_nothing_is_reported():
    assert scene_share([]) is None
    assert overall_share([]) is None
    assert agreement([]) is None


def study_of(shares: list[float], scenes: int = 20) -> list:
    """Return answers of participants who choose the first method in a share of the scenes."""
    return [
        answer(f"p{person}", f"scene {k}", "preferred", int(k >= share * scenes))
        for person, share in enumerate(shares)
        for k in range(scenes)
    ]


def test_participants_are_resampled_and_not_their_answers():
    # Four who choose one method throughout: 80 answers, but only four opinions.
    divided = overall_share(study_of([1.0, 1.0, 0.0, 0.0]))
    alike = overall_share(study_of([0.5, 0.5, 0.5, 0.5]))
    assert divided is not None
    assert alike is not None
    assert divided.value == alike.value == 0.5
    assert (divided.low, divided.high) == (0.0, 1.0)
    assert (alike.low, alike.high) == (0.5, 0.5)


def test_the_bootstrap_interval_is_that_of_the_mean_of_many_participants():
    shares = np.random.default_rng(3).integers(4, 20, 60) / 20
    found = overall_share(study_of(list(shares)))
    error = shares.std() / len(shares) ** 0.5
    assert found is not None
    assert found.value == pytest.approx(shares.mean())
    assert found.low == pytest.approx(shares.mean() - 1.96 * error, abs=0.006)
    assert found.high == pytest.approx(shares.mean() + 1.96 * error, abs=0.006)
    assert found == overall_share(study_of(list(shares)))


def test_one_participant_has_no_interval_over_participants():
    share = overall_share(study_of([0.8]))
    assert share is not None
    assert (share.value, share.low, share.high) == (0.8, None, None)


def test_alpha_is_that_of_krippendorffs_example():
    # Krippendorff (2011), section C: 4 observers, 12 units, values missing; nominal alpha .743.
    rows = (
        (1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None),
        (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3),
        (None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None),
        (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None),
    )
    units = [[value for value in unit if value is not None] for unit in zip(*rows, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


def test_alpha_of_two_observers_is_that_of_krippendorffs_binary_example():
    # Krippendorff (2011), section A: 10 units, alpha .095.
    units = [*zip((0, 1, 0, 0, 0, 0, 0, 0, 1, 0), (1, 1, 1, 0, 0, 1, 0, 0, 0, 0), strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(0.095, abs=5e-4)


def test_agreement_is_one_where_all_agree_and_unknown_where_all_is_the_same():
    agreed = [answer(p, s, "creative", k % 2) for p in "abc" for k, s in enumerate(SCENES)]
    assert agreement(agreed) == pytest.approx(1.0)
    assert agreement([a for a in agreed if a.scene == SCENES[0]]) is None
    assert agreement([a for a in agreed if a.participant == "a"]) is None


def test_the_share_of_video_1_is_that_of_the_side_whatever_the_method():
    answers = [answer("a", scene, "creative", 1, first=1) for scene in SCENES[:2]]
    answers.append(answer("a", SCENES[2], "creative", 1, first=0))
    assert shown_first_share(answers) == pytest.approx(2 / 3)
