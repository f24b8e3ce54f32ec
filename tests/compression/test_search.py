"""Which student comes next: towards a drop, and towards a time."""

import numpy as np
import pytest

from ghostify.compression.search import (
    BUILDS,
    CLOSE,
    PROBES,
    Built,
    ExpectedLosses,
    Judged,
    best_build,
    next_build,
    next_probe,
)

SHARES = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.97)
EXPECTED = ExpectedLosses(SHARES, tuple(3 * np.exp(-6 * share) for share in SHARES))


def probes(truth, max_drop, step=1e-4):
    """What is judged where a student of a share loses ``truth(share)`` at most, and plans come in steps."""
    judged = []
    while (share := next_probe(judged, max_drop, EXPECTED)) is not None:
        reached = max(np.floor(share / step + 1e-9) * step, EXPECTED.shares[0])
        assert EXPECTED.shares[0] <= share <= EXPECTED.shares[-1]
        same = [one for one in judged if one.reached == reached]
        judged.append(Judged(share, reached, same[0].most if same else truth(reached)))
        assert len(judged) < 40
    assert len({one.reached for one in judged}) <= PROBES
    return judged


@pytest.mark.parametrize("margin", [0, 0.003])
@pytest.mark.parametrize("scale", [0.05, 0.15, 0.3])
@pytest.mark.parametrize("power", [4, 6, 9])
def test_the_smallest_share_within_the_drop_is_found(scale, power, margin):
    def truth(share):
        return margin + scale * np.exp(-power * share)

    judged = probes(truth, 0.01)
    within = [one.reached for one in judged if one.most <= 0.01]
    wanted = np.clip(np.log(scale / (0.01 - margin)) / power, SHARES[0], SHARES[-1])
    assert min(within) == pytest.approx(wanted, abs=0.04)


def test_plans_that_come_out_alike_are_judged_once():
    judged = probes(lambda share: 0.1 * np.exp(-6 * share), 0.01, step=0.1)
    made = {one.reached for one in judged}
    assert min(one.reached for one in judged if one.most <= 0.01) == pytest.approx(0.4)
    assert len(made) <= 4


def test_the_mildest_student_is_tried_before_giving_up():
    judged = probes(lambda share: 0.5, 0.01)
    assert judged[-1].asked == SHARES[-1]
    assert all(one.most > 0.01 for one in judged)


def test_the_least_share_ends_the_search():
    judged = probes(lambda share: 1e-4, 0.01)
    assert judged[-1].reached == SHARES[0]
    assert len(judged) < PROBES


@pytest.mark.parametrize("wanted", [0.5, 0.6, 0.8])
@pytest.mark.parametrize("truth", [lambda a: a, lambda a: 0.25 + 0.75 * a, lambda a: a**2, lambda a: np.round(a, 2) + 0.05])
def test_a_time_is_met_in_five_builds(truth, wanted):
    built = []
    while (share := next_build(built, wanted, 0.1, 0.97)) is not None:
        built.append(Built(share, float(truth(share))))
    assert len(built) <= BUILDS
    assert (1 - 1.5 * CLOSE) * wanted <= best_build(built, wanted).measured <= wanted


def test_a_time_that_no_student_takes():
    built = []
    while (share := next_build(built, 0.3, 0.2, 0.97)) is not None:
        built.append(Built(share, 0.5 + 0.5 * share))
    assert best_build(built, 0.3) is None
    assert min(one.asked for one in built) == 0.2
