"""Statistics over seeds, against numbers worked out by hand."""

import numpy as np
import pytest

from sasg.report.statistics import mean_interval, over_seeds, paired_ratios


def test_mean_spread_and_range():
    found = over_seeds([10, 20, 60])
    assert (found.n, found.num_missing, found.mean, found.minimum, found.maximum) == (3, 0, 30.0, 10.0, 60.0)
    assert found.sd == pytest.approx(np.sqrt((400 + 100 + 900) / 2))


def test_interval_by_hand():
    """Student's t of four values: mean 25, standard deviation 12.91, t = 3.182 at three degrees of freedom."""
    found = over_seeds([10, 20, 30, 40])
    half = 3.1824463 * np.sqrt(500 / 3) / 2
    assert (found.low, found.high) == pytest.approx((25 - half, 25 + half))
    assert found.interval("{:.1f}".format) == f"{25 - half:.1f} to {25 + half:.1f}"


@pytest.mark.parametrize("n", [4, 5, 10])
def test_the_interval_covers_the_mean_as_often_as_it_says(n):
    """In 4,000 samples of normal values a coverage of 95 % is met within 0.35 points (one standard error)."""
    draws = np.random.default_rng(n).normal(size=(4000, n))
    covered = [low <= 0 <= high for low, high in map(mean_interval, draws)]
    assert abs(np.mean(covered) - 0.95) < 4 * 0.0035


@pytest.mark.parametrize("n", [2, 3])
def test_of_few_runs_there_is_a_range_and_no_interval(n):
    """The range of two covers the mean in half of all cases: it must not be called an interval."""
    found = over_seeds(list(range(n)))
    assert (found.low, found.high) == (None, None)
    assert found.interval("{:g}".format) == f"range 0 to {n - 1}"


def test_equal_values_have_a_point_as_interval():
    assert mean_interval([600] * 4) == (600, 600)


def test_one_run_has_no_interval():
    found = over_seeds([7])
    assert (found.n, found.mean, found.low, found.high) == (1, 7.0, None, None)
    assert found.sd is None and found.interval(str) == ""


def test_runs_that_never_cross_are_not_averaged_away():
    found = over_seeds([10, None, 30])
    assert (found.n, found.num_missing, found.mean, found.low) == (3, 1, None, None)
    assert (found.minimum, found.maximum) == (10.0, 30.0)
    nobody = over_seeds([None, None])
    assert (nobody.n, nobody.num_missing, nobody.minimum) == (2, 2, None)
    assert over_seeds([]).n == 0


def test_pairs_are_over_equal_seeds():
    found = paired_ratios({1: 10, 19: 30, 31: 5}, {1: 20, 19: 40, 80: 1})
    assert (found.n, found.mean, found.minimum, found.maximum) == (2, 0.625, 0.5, 0.75)


def test_a_pair_needs_both_crossings():
    found = paired_ratios({1: 10, 19: None, 31: 3}, {1: 20, 19: 40, 31: None})
    assert (found.n, found.num_missing, found.mean) == (3, 2, None)
