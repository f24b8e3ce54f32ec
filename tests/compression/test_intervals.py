"""Upper ends of confidence intervals of a drop, beside references and beside what truth does."""

import numpy as np
import pytest
from scipy import stats

from ghostify.compression.intervals import disagreement_at_most, drop_at_most, least_images, mean_drop_at_most


@pytest.mark.parametrize(("count", "images"), [(0, 50), (3, 100), (20, 400), (50, 50)])
def test_disagreement_is_the_exact_binomial_limit(count, images):
    most = disagreement_at_most(count, images, 0.05)
    assert most == pytest.approx(stats.binomtest(count, images).proportion_ci(0.9, method="exact").high)


def test_a_drop_is_seldom_larger_than_the_limit():
    """Where students lose 3 of 100 images and win 1, the drop is 2 points; the limit is below that in one of twenty cases."""
    draws = np.random.default_rng(0).multinomial(400, [0.03, 0.01, 0.96], 1500)
    limits = {pair: drop_at_most(*pair, 400, 0.05) for pair in {(int(lost), int(won)) for lost, won, _ in draws}}
    missed = np.mean([limits[int(lost), int(won)] < 0.02 for lost, won, _ in draws])
    assert 0.02 < missed < 0.07


def test_images_that_differ_both_ways_count():
    assert drop_at_most(5, 5, 1000, 0.05) < drop_at_most(50, 50, 1000, 0.05)
    assert drop_at_most(5, 50, 1000, 0.05) < 0 < drop_at_most(5, 5, 1000, 0.05)
    wald = 0.01 + stats.norm.ppf(0.95) * np.sqrt(300 - 100**2 / 10_000) / 10_000
    assert drop_at_most(200, 100, 10_000, 0.05) == pytest.approx(wald, rel=0.02)


def test_the_spread_of_groups_is_students():
    drops = [0.01, 0.03, 0.02, 0.00, 0.04]
    high = stats.t.interval(0.9, 4, np.mean(drops), stats.sem(drops))[1]
    assert np.mean(drops) + mean_drop_at_most(drops, 0.05) == pytest.approx(high)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("drop", [0.005, 0.02, 0.3])
def test_so_many_images_are_needed_and_no_more(drop, paired):
    def most(images):
        return drop_at_most(0, 0, images, 0.01) if paired else disagreement_at_most(0, images, 0.01)

    needed = least_images(drop, 0.01, paired)
    assert most(needed) <= drop + 1e-12 < most(needed - 1)
