"""How large a drop may be in truth, for all that some images say: upper ends of one-sided confidence intervals."""

import math
from collections.abc import Sequence
from statistics import NormalDist, stdev

from scipy import stats


def disagreement_at_most(disagreeing: int, images: int, risk: float) -> float:
    """The largest share of disagreement that is not refuted (Clopper and Pearson, 1934); it is exact.

    Args:
        disagreeing: images on which student and original disagree.
        images: all of them.
        risk: the chance that the share is larger.
    """
    if disagreeing >= images:
        return 1.0
    return float(stats.beta.ppf(1 - risk, disagreeing + 1, images - disagreeing))


def drop_at_most(lost: int, won: int, images: int, risk: float) -> float:
    """The largest drop that is not refuted by images that both networks judged: the score interval of the difference of two
    paired proportions (Tango, Statistics in Medicine 17, 1998), which stays honest where few images differ or none does.

    Args:
        lost: images that the original gets right and the student does not.
        won: images that the student gets right and the original does not.
        images: all of them.
        risk: the chance that the drop is larger.
    """
    quantile = NormalDist().inv_cdf(1 - risk)
    low, high = (lost - won) / images, 1.0
    for _ in range(60):
        drop = (low + high) / 2
        if _score(drop, lost, won, images) < quantile:
            low = drop
        else:
            high = drop
    return high


def _score(drop: float, lost: int, won: int, images: int) -> float:
    """By how many standard deviations a drop is above the one that is observed, were it the true one."""
    linear = -(lost + won) + (2 * images - lost + won) * drop
    root = math.sqrt(max(0.0, linear**2 + 8 * images * won * drop * (1 - drop)))
    won_share = (root - linear) / (4 * images)  # the most likely share of images that the student alone gets right
    variance = images * (2 * won_share + drop * (1 - drop))
    return (images * drop - (lost - won)) / math.sqrt(max(variance, 1e-300))


def mean_drop_at_most(drops: Sequence[float], risk: float) -> float:
    """By how much the mean of independent drops may be exceeded by the truth: Student's t.

    Args:
        drops: of groups of images, at least two.
        risk: the chance that it is more.
    """
    return float(stats.t.ppf(1 - risk, len(drops) - 1)) * stdev(drops) / math.sqrt(len(drops))


def least_images(drop: float, risk: float, paired: bool) -> int:
    """How many images can tell a drop at all: with fewer, even a student that is never wrong is not known to keep within it.

    Args:
        drop: that is allowed.
        risk: the chance that the drop is larger.
        paired: whether drops are told by :func:`drop_at_most`, not by :func:`disagreement_at_most`.
    """
    if paired:
        return math.ceil(NormalDist().inv_cdf(1 - risk) ** 2 * (1 - drop) / drop)
    return math.ceil(math.log(risk) / math.log1p(-drop))
