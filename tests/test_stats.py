"""Intervals against published values, scipy and independent formulas."""

from __future__ import annotations

import time
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from fmn_guard.stats import (
    Interval,
    bootstrap_prompts,
    newcombe_paired,
    percent,
    samples_needed,
    true_drop,
    true_rate,
    wider,
    wilson,
)

CONFIDENCES = st.sampled_from([0.8, 0.9, 0.95, 0.99])
CELLS = st.tuples(*[st.integers(0, 60)] * 4)


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int]:
    n = draw(st.integers(1, 400))
    return draw(st.integers(0, n)), n


@st.composite
def prompt_sums(draw: st.DrawFn) -> list[tuple[int, int]]:
    sizes = draw(st.lists(st.integers(1, 8), min_size=1, max_size=6))
    return [(draw(st.integers(0, n)), n) for n in sizes]


def bounds(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


@given(counts(), CONFIDENCES)
def test_wilson_agrees_with_scipy(count: tuple[int, int], confidence: float) -> None:
    hits, n = count
    expected = binomtest(hits, n).proportion_ci(confidence, method="wilson")
    assert bounds(wilson(hits, n, confidence)) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(counts(), CONFIDENCES)
def test_wilson_holds_the_rate_and_stays_in_range(count: tuple[int, int], confidence: float) -> None:
    low, high = bounds(wilson(*count, confidence))
    assert 0 <= low <= count[0] / count[1] <= high <= 1


@given(counts(), CONFIDENCES)
def test_wilson_grows_with_hits(count: tuple[int, int], confidence: float) -> None:
    hits, n = count
    less, more = wilson(max(0, hits - 1), n, confidence), wilson(hits, n, confidence)
    assert less.low <= more.low
    assert less.high <= more.high


def test_nothing_of_eight_leaves_an_upper_bound_of_a_third() -> None:
    assert wilson(0, 8, 0.95).high == pytest.approx(0.324, abs=5e-4)


@pytest.mark.parametrize(
    ("cells", "low", "high"),
    [
        ((14, 5, 0, 22), 0.01, 0.23),  # Altman et al. 2000, Statistics with Confidence, table 6.2
        ((1, 1, 7, 12), -0.507, -0.026),  # Fagerland et al. 2014, Stat. Med. 33:2850, airway hyper-responsiveness
    ],
)
def test_newcombe_gives_published_values(cells: tuple[int, int, int, int], low: float, high: float) -> None:
    digits = len(str(high).split(".")[1])
    assert tuple(round(bound, digits) for bound in bounds(newcombe_paired(*cells, 0.95))) == (low, high)


@given(CELLS.filter(any), CONFIDENCES)
def test_newcombe_agrees_with_the_paper_written_out(cells: tuple[int, int, int, int], confidence: float) -> None:
    # e, f, g, h, and phi with the numerator of method 10, as in section 2 of the paper; Wilson from scipy.
    e, f, g, h = cells
    n = e + f + g + h
    first = binomtest(e + f, n).proportion_ci(confidence, method="wilson")
    second = binomtest(e + g, n).proportion_ci(confidence, method="wilson")
    dl2, du2 = (e + f) / n - first.low, first.high - (e + f) / n
    dl3, du3 = (e + g) / n - second.low, second.high - (e + g) / n
    a, b = (e + f) * (g + h) * (e + g) * (f + h), e * h - f * g
    c = b - n / 2 if b > n / 2 else 0 if b >= 0 else b
    phi = c / sqrt(a) if a else 0
    theta = (f - g) / n
    low = theta - sqrt(max(0, dl2**2 - 2 * phi * dl2 * du3 + du3**2))
    high = theta + sqrt(max(0, du2**2 - 2 * phi * du2 * dl3 + dl3**2))
    assert bounds(newcombe_paired(*cells, confidence)) == pytest.approx((low, high), abs=1e-9)


@given(CELLS.filter(any), CONFIDENCES)
def test_newcombe_holds_the_drop_and_stays_in_range(cells: tuple[int, int, int, int], confidence: float) -> None:
    low, high = bounds(newcombe_paired(*cells, confidence))
    assert -1 <= low <= (cells[1] - cells[2]) / sum(cells) <= high <= 1


@given(CELLS.filter(any), CONFIDENCES)
def test_newcombe_mirrors_when_before_and_after_change_places(
    cells: tuple[int, int, int, int], confidence: float
) -> None:
    both, lost, gained, neither = cells
    there, back = newcombe_paired(*cells, confidence), newcombe_paired(both, gained, lost, neither, confidence)
    assert bounds(there) == pytest.approx((-back.high, -back.low), abs=1e-12)


@given(CELLS.filter(lambda cells: cells[0] > 0), CONFIDENCES)
def test_losing_one_pair_more_never_lowers_the_upper_bound_of_a_drop(
    cells: tuple[int, int, int, int], confidence: float
) -> None:
    # The bound that can pass a limit. The lower one may fall by some hundredths of a point, since phi changes too.
    both, lost, gained, neither = cells
    less, more = newcombe_paired(*cells, confidence), newcombe_paired(both - 1, lost + 1, gained, neither, confidence)
    assert less.high <= more.high + 1e-12


def test_nothing_measured_gives_the_whole_range() -> None:
    assert bounds(wilson(0, 0, 0.95)) == (0, 1)
    assert bounds(newcombe_paired(0, 0, 0, 0, 0.95)) == (-1, 1)
    assert bounds(bootstrap_prompts([], 0.95)) == (0, 1)
    assert bounds(bootstrap_prompts([(0, 0)], 0.95, least=-1)) == (-1, 1)


def test_bootstrap_is_a_point_when_prompts_agree() -> None:
    assert bounds(bootstrap_prompts([(0, 6)] * 6, 0.95)) == (0, 0)
    assert bounds(bootstrap_prompts([(3, 6)], 0.95)) == (0.5, 0.5)


def test_bootstrap_is_wider_than_wilson_when_prompts_differ() -> None:
    unlike = bootstrap_prompts([(6, 6), (6, 6), (6, 6), (0, 6), (0, 6), (0, 6)], 0.95)
    pictures = wilson(18, 36, 0.95)
    assert unlike.low < pictures.low
    assert unlike.high > pictures.high


def test_bootstrap_agrees_with_the_normal_interval_of_many_prompts() -> None:
    prompts = [(i % 2, 1) for i in range(400)]  # a mean of 0.5 with a standard error of 0.025
    assert bounds(bootstrap_prompts(prompts, 0.95)) == pytest.approx((0.5 - 0.049, 0.5 + 0.049), abs=0.005)


@given(prompt_sums(), st.integers(0, 9))
def test_bootstrap_is_deterministic(prompts: list[tuple[int, int]], seed: int) -> None:
    again = [bootstrap_prompts(prompts, 0.95, seed=seed, draws=100) for _ in range(2)]
    assert again[0] == again[1]


@given(prompt_sums(), st.data())
def test_bootstrap_grows_with_hits(prompts: list[tuple[int, int]], data: st.DataObject) -> None:
    i = data.draw(st.integers(0, len(prompts) - 1))
    total, n = prompts[i]
    fuller = [*prompts[:i], (min(n, total + 1), n), *prompts[i + 1 :]]
    less, more = (bootstrap_prompts(p, 0.95, draws=100) for p in (prompts, fuller))
    assert less.low <= more.low
    assert less.high <= more.high


def test_bootstrap_of_sixty_prompts_takes_a_fifth_of_a_second_at_most() -> None:
    start = time.process_time()
    bootstrap_prompts([(i % 7, 6 + i % 2) for i in range(60)], 0.95)
    assert time.process_time() - start <= 0.2


@given(counts(), counts())
def test_wider_interval_holds_both(first: tuple[int, int], second: tuple[int, int]) -> None:
    a, b = wilson(*first, 0.95), wilson(*second, 0.95)
    both = wider(a, b)
    assert both.low <= min(a.low, b.low)
    assert both.high >= max(a.high, b.high)
    assert both == wider(b, a)


def test_five_percent_needs_73_clean_pictures_and_ten_percent_35() -> None:
    assert samples_needed(0.05, 0.95) == 73
    assert samples_needed(0.1, 0.95) == 35


@given(st.floats(1e-4, 1), CONFIDENCES)
def test_samples_needed_is_the_smallest_number_that_decides(limit: float, confidence: float) -> None:
    n = samples_needed(limit, confidence)
    assert wilson(0, n, confidence).high <= limit
    assert n == 0 or wilson(0, n - 1, confidence).high > limit


@pytest.mark.parametrize("limit", [1e-12, 5e-324])
def test_samples_needed_for_an_absurd_limit_is_out_of_reach_and_no_error(limit: float) -> None:
    assert samples_needed(limit, 0.95) == 10**9


@pytest.mark.parametrize(("share", "words"), [(0.0964, "9.6 %"), (1, "100.0 %"), (-0.0001, "0.0 %"), (-0.1, "-10.0 %")])
def test_percent_has_one_digit_and_no_negative_zero(share: float, words: str) -> None:
    assert percent(share) == words


# ---- what a fallible recogniser measured


@st.composite
def shares(draw: st.DrawFn, least: float = 0, most: float = 1) -> Interval:
    a, b = sorted((draw(st.floats(least, most)), draw(st.floats(least, most))))
    return Interval(low=a, high=b)


POINT_ONE, POINT_NOUGHT = Interval(low=1, high=1), Interval(low=0, high=0)


def test_true_rate_is_that_of_rogan_and_gladen() -> None:
    # prevalence = (apparent + specificity - 1) / (sensitivity + specificity - 1)
    apparent, sensitivity, specificity = 0.3, 0.9, 0.95
    expected = (apparent + specificity - 1) / (sensitivity + specificity - 1)
    at = [Interval(low=x, high=x) for x in (apparent, sensitivity, 1 - specificity)]
    assert bounds(true_rate(*at)) == pytest.approx((expected, expected))


@given(shares(), shares(0.6), shares(0, 0.4), st.tuples(*[st.floats(0, 1)] * 3))
def test_true_rate_holds_every_solution_within_its_intervals(
    apparent: Interval, sensitivity: Interval, alarms: Interval, at: tuple[float, ...]
) -> None:
    q, s, f = (i.low + t * (i.high - i.low) for i, t in zip((apparent, sensitivity, alarms), at, strict=True))
    found = true_rate(apparent, sensitivity, alarms)
    if s > f:
        assert found.low - 1e-9 <= min(1, max(0, (q - f) / (s - f))) <= found.high + 1e-9


@given(shares(-1), shares(0.6), shares(0, 0.4), st.tuples(*[st.floats(0, 1)] * 3))
def test_true_drop_holds_every_solution_within_its_intervals(
    apparent: Interval, sensitivity: Interval, alarms: Interval, at: tuple[float, ...]
) -> None:
    d, s, f = (i.low + t * (i.high - i.low) for i, t in zip((apparent, sensitivity, alarms), at, strict=True))
    found = true_drop(apparent, sensitivity, alarms)
    if s > f:
        assert found.low - 1e-9 <= min(1, max(-1, d / (s - f))) <= found.high + 1e-9


@given(shares())
def test_recogniser_that_never_errs_changes_nothing(apparent: Interval) -> None:
    assert bounds(true_rate(apparent, POINT_ONE, POINT_NOUGHT)) == pytest.approx(bounds(apparent))
    assert bounds(true_drop(apparent, POINT_ONE, POINT_NOUGHT)) == pytest.approx(bounds(apparent))


def test_recogniser_that_may_tell_nothing_apart_leaves_everything_open() -> None:
    useless = Interval(low=0.4, high=0.6)
    assert bounds(true_rate(Interval(low=0, high=0), useless, useless)) == (0, 1)
    assert bounds(true_drop(Interval(low=0, high=0), useless, useless)) == (-1, 1)


@pytest.mark.parametrize(("truth", "sensitivity", "alarms"), [(0.05, 0.98, 0.003), (0.3, 0.9, 0.05), (0.0, 0.95, 0.02)])
def test_corrected_interval_holds_the_truth_as_often_as_it_says(
    truth: float, sensitivity: float, alarms: float
) -> None:
    drawer = np.random.default_rng(0)
    held, rounds, n, controls = 0, 400, 60, 300
    for _ in range(rounds):
        hits = drawer.binomial(n, truth * sensitivity + (1 - truth) * alarms)
        found, wrong = drawer.binomial(controls, sensitivity), drawer.binomial(controls, alarms)
        seen = wilson(int(hits), n, 0.95)
        errors = wilson(int(found), controls, 0.95), wilson(int(wrong), controls, 0.95)
        interval = wider(seen, true_rate(seen, *errors))
        held += interval.low <= truth <= interval.high
    assert held / rounds >= 0.95
