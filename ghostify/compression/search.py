"""Which student to make next: towards a drop that is allowed, and towards a share of time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PROBES = 6  # students at most that are judged; all promises together hold with CONFIDENCE

CONFIDENCE = 0.95

RISK = (1 - CONFIDENCE) / PROBES  # of one of them

FIRST = 0.6  # the share of the first one

NEAR = 0.02  # between shares: nearer ones are not told apart

BUILDS = 5  # students at most that are built to meet a share of time

CLOSE = 0.03  # below the share that is wanted: as near as builds come

AIM = 0.985  # of the share of time that is wanted, and of the drop that is allowed: what a guess aims at


@dataclass(frozen=True)
class ExpectedLosses:
    """What students of several shares lose, by one pass of images: in no unit, but in the right order.

    Attributes:
        shares: in increasing order, the first the least that is feasible.
        losses: falling, above 0.
    """

    shares: tuple[float, ...]
    losses: tuple[float, ...]

    def of(self, share: float) -> float:
        """The loss of a student of this share."""
        return float(np.exp(np.interp(share, self.shares, np.log(self.losses))))

    def share(self, loss: float) -> float:
        """The share of the student that loses so much."""
        return float(np.interp(-np.log(loss), -np.log(self.losses), self.shares))


@dataclass(frozen=True)
class Judged:
    """A student that was judged.

    Attributes:
        asked: the share that its plan may cost.
        reached: the share that it costs; plans of the same are the same.
        most: that it may lose for all that is known.
    """

    asked: float
    reached: float
    most: float


def next_probe(judged: Sequence[Judged], max_drop: float, expected: ExpectedLosses) -> float | None:
    """The share of the student to judge next; None where no more is to be gained.

    Drops are taken to grow with expected losses: in proportion as long as all students keep within the limit or none does, and
    along a line between the two nearest ones after that.

    Args:
        judged: students so far; where a plan came out as one that was judged before, once more with what was asked.
        max_drop: the limit.
        expected: by one pass of images.
    """
    least, most = expected.shares[0], expected.shares[-1]
    if not judged:
        return _rounded(FIRST, least, most)
    made = len({one.reached for one in judged})
    if made == PROBES:
        return None
    within = min((one for one in judged if one.most <= max_drop), key=lambda one: one.reached, default=None)
    beyond = max((one for one in judged if one.most > max_drop), key=lambda one: one.asked, default=None)
    if within is None:
        assert beyond is not None
        if beyond.asked >= most:
            return None
        factor = np.clip(AIM * max_drop / beyond.most, 1 / 8, 1 / 1.25)
        share = max(expected.share(factor * expected.of(beyond.asked)), beyond.asked + NEAR)
        return most if made == PROBES - 1 else _rounded(share, least, most)
    if beyond is None:
        if within.reached <= least:
            return None
        factor = np.clip(AIM * max_drop / max(within.most, 1e-9), 1.25, 8)
        return _rounded(min(expected.share(factor * expected.of(within.reached)), within.reached - NEAR), least, most)
    gap = within.reached - beyond.asked
    if gap < NEAR:
        return None
    low, high = expected.of(within.reached), expected.of(beyond.asked)
    loss = low + (high - low) * (AIM * max_drop - within.most) / (beyond.most - within.most)
    share = expected.share(max(loss, low))
    return _rounded(float(np.clip(share, beyond.asked + 0.3 * gap, within.reached - 0.3 * gap)), least, most)


@dataclass(frozen=True)
class Built:
    """A share that was asked of the plan, and the share of the original's time that its student takes."""

    asked: float
    measured: float


def next_build(built: Sequence[Built], wanted: float, least: float, most: float) -> float | None:
    """The share to ask of the plan next, so that the student takes the time that is wanted; None where builds are over.

    Args:
        built: students so far.
        wanted: share of the original's time.
        least, most: shares that can be asked of a plan.
    """
    if not built:
        return _rounded(wanted, least, most)
    if len(built) == BUILDS or _is_close(built, wanted):
        return None
    nearest = sorted(built, key=lambda one: abs(one.measured - AIM * wanted))
    one, other = nearest[0], nearest[1] if len(nearest) > 1 else Built(1.0, 1.0)
    slope = (one.measured - other.measured) / (one.asked - other.asked) if one.asked != other.asked else 1.0
    share = one.asked + (AIM * wanted - one.measured) / max(slope, 0.25)
    low = max((one.asked for one in built if one.measured <= wanted), default=least)
    high = min((one.asked for one in built if one.measured > wanted and one.asked > low), default=most)
    share = float(np.clip(share, low, high))
    if any(abs(share - one.asked) < 1e-3 for one in built):  # on an end of what is known
        share = (low + high) / 2
    share = _rounded(share, least, most)
    return None if any(abs(share - one.asked) < 1e-3 for one in built) else share


def best_build(built: Sequence[Built], wanted: float) -> Built | None:
    """The student that meets the target and is no smaller than it has to be; None where none meets it."""
    return max((one for one in built if one.measured <= wanted), key=lambda one: one.measured, default=None)


def _is_close(built: Sequence[Built], wanted: float) -> bool:
    best = best_build(built, wanted)
    return best is not None and best.measured >= (1 - CLOSE) * wanted


def _rounded(share: float, least: float, most: float) -> float:
    return float(min(max(round(share, 4), least), most))
