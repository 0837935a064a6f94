"""Statistical disclosure control on arrays and frames: smoothing, noise, coding of extremes, record swapping.

Nothing here knows of copies or of models. Random numbers come as words (``fastsynth.streams``), one for each row, so a
result depends neither on threads nor on pieces. Who knows the words can undo smoothing and noise: they are to be as
secret as the original.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fastsynth.errors import DataError, OptionError, check_count
from fastsynth.normals import normal
from fastsynth.streams import Words, hashed, unit

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
# A value that a larger share of the column has is left as it is by smoothing.
SPIKE_SHARE = 0.7
# Decimals beyond these are those of a continuous number, and not kept.
MOST_DECIMALS = 10
# Bins for the bandwidth: so many for the widest one that is looked at, within limits.
BINS_A_BANDWIDTH, LEAST_BINS, MOST_BINS = 200, 1_000, 2**20
# The normal density is nothing beyond so many standard deviations.
FAR = 12.0
# Knots of a smoothing spline.
KNOTS = 200


# Numbers of a column


@dataclass(frozen=True, slots=True)
class Grid:
    """Where numbers of a column lie: at zero + step * (a whole number), or anywhere.

    Attributes
    ----------
    zero : int
        Smallest value, as the integer that Arrow stores; 0 for fractional numbers.
    step : int
        Largest integer that all distances are multiples of: 1 day for times that are dates. 0 for fractional numbers.
    """

    zero: int = 0
    step: int = 0


def grid_of(values: pl.Series) -> Grid:
    """Find the grid of integers, dates and times; cost O(n).

    Examples
    --------
    >>> grid_of(pl.Series([1500, 900, None, 1000]))
    Grid(zero=900, step=100)
    """
    if not _is_whole(values.dtype):
        return Grid()
    whole = values.drop_nulls().to_physical().cast(pl.Int128).unique()
    if whole.is_empty():
        return Grid(0, 1)
    zero: int = whole.min()  # type: ignore[assignment]
    return Grid(zero, int(np.gcd.reduce((whole - _wide(zero)).cast(pl.UInt64).to_numpy())) or 1)


def numbers_of(values: pl.Series, grid: Grid) -> Floats:
    """A column as float64, in steps of its grid; missing values are NaN."""
    if grid.step:
        places = (values.to_physical().cast(pl.Int128) - _wide(grid.zero)).cast(pl.Float64) / grid.step
    else:
        places = values.cast(pl.Float64)
    return places.fill_null(math.nan).to_numpy()


def with_numbers(values: pl.Series, numbers: Floats, grid: Grid) -> pl.Series:
    """The column with other numbers, in its own type; what did not change comes back exactly.

    Parameters
    ----------
    values : polars.Series
        Integers, decimals, fractional numbers, dates, times or durations.
    numbers : ndarray of shape (n,)
        As ``numbers_of`` gives them; NaN where ``values`` are missing.
    grid : Grid

    Examples
    --------
    >>> days = pl.Series([1, 8, None]).cast(pl.Date)
    >>> with_numbers(days, np.array([0.0, 0.6, np.nan]), grid_of(days)).to_physical().to_list()
    [1, 8, None]
    """
    same = numbers == numbers_of(values, grid)
    changed = pl.Series(values.name, numbers).fill_nan(None)
    if grid.step:
        whole = changed.round().cast(pl.Int128) * _wide(grid.step) + _wide(grid.zero)
        if values.dtype.is_integer():
            whole = whole.clip(pl.select(values.dtype.min()).item(), pl.select(values.dtype.max()).item())  # type: ignore[attr-defined]
            changed = whole.cast(values.dtype)
        else:
            changed = whole.cast(values.to_physical().dtype).cast(values.dtype)
    elif values.dtype.is_decimal():
        scale: int = values.dtype.scale  # type: ignore[attr-defined]
        changed = changed.round(scale).cast(values.dtype)
    else:
        changed = changed.cast(values.dtype)
    return values.zip_with(pl.Series(same | np.isnan(numbers)), changed)


def is_number(dtype: pl.DataType) -> bool:
    """Whether numbers can be made of a column."""
    return dtype.is_numeric() or dtype.is_temporal()


def _wide(number: int) -> pl.Series:
    """A number that neither unsigned integers nor differences of large ones overflow."""
    return pl.Series([number], dtype=pl.Int128)


def _is_whole(dtype: pl.DataType) -> bool:
    return dtype.is_integer() or dtype.is_temporal()


def decimals_of(numbers: Floats, single: bool = False) -> int | None:
    """Decimals with which all numbers are written; None for more than 10.

    Parameters
    ----------
    numbers : ndarray of shape (n,)
        NaN is passed over.
    single : bool
        Whether the numbers were float32, and are only as exact as that.

    Examples
    --------
    >>> decimals_of(np.array([1.5, 2.25, np.nan]))
    2
    """
    known = numbers[np.isfinite(numbers)]
    # Nearly all continuous columns show with a few values that they are.
    for some in (known[:100], known):
        for decimals in range(MOST_DECIMALS + 1):
            rounded = np.round(some, decimals)
            if np.array_equal(rounded.astype(np.float32) if single else rounded, some.astype(rounded.dtype)):
                break
        else:
            return None
    return decimals


# Smoothing


@dataclass(frozen=True, slots=True)
class Smoothing:
    """How drawn numbers of a column are smoothed, learned from the observed ones. It holds real values.

    Attributes
    ----------
    bandwidth : float
        Standard deviation of what is added; 0 where nothing can be smoothed.
    low, high : float
        Smallest and largest observed value: smoothed ones stay between.
    decimals : int or None
        What is rounded to; None for continuous numbers.
    spike : float or None
        A value that more than 70 % of the column has: it is left as it is.
    top : float or None
        A largest value on which the column piles up, as if larger ones had been coded to it: left as it is.
    """

    bandwidth: float
    low: float
    high: float
    decimals: int | None = None
    spike: float | None = None
    top: float | None = None


def smoothing_of(
    values: NDArray[np.floating[Any]], weights: Floats | None = None, counts: Integers | None = None
) -> Smoothing:
    """Learn from an observed column how draws of it are smoothed.

    The bandwidth is that of Sheather and Jones (1991), of the values that are neither spike nor top code. Where it is
    smaller than the least distance of two of them it saw nothing but ties: it is Silverman's (1986) rule of thumb then.

    Parameters
    ----------
    values : ndarray of shape (n,)
        Observed numbers; NaN is missing.
    weights : ndarray of shape (n,), optional
        Sampling weights; n is then the effective number of rows, that is (sum of w)^2 / (sum of w^2).
    counts : ndarray of shape (n,), optional
        How often each of ``values`` occurs, for distinct values.

    Returns
    -------
    Smoothing

    Notes
    -----
    O(n log n) for sorting; the bandwidth itself costs O(bins log bins).

    References
    ----------
    Sheather and Jones (1991), J. Royal Statistical Society B 53:683. Silverman (1986), Density Estimation for
    Statistics and Data Analysis. Rules for spikes and top codes: Nowok, Raab and Dibben (2016), J. Statistical Software
    74(11), package synthpop.

    Examples
    --------
    >>> ages = np.repeat(np.arange(20.0, 70.0), 3)
    >>> smoothing_of(ages)
    Smoothing(bandwidth=4.65375, low=20.0, high=69.0, decimals=0, spike=None, top=None)
    """
    of_value = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    often = np.ones(len(values)) if counts is None else np.asarray(counts, np.float64)
    known = np.isfinite(values) & (of_value > 0) & (often > 0)
    single = values.dtype == np.float32
    numbers, place = np.unique(values[known].astype(np.float64), return_inverse=True)
    if len(numbers) == 0:
        return Smoothing(0.0, math.nan, math.nan)
    frequency = np.bincount(place, often[known]).astype(np.float64)
    weight = np.bincount(place, (often * of_value)[known])
    squares = np.bincount(place, (often * of_value**2)[known])
    spike, top = _spike(numbers, frequency), _top(numbers, frequency)
    decimals = decimals_of(numbers, single)
    moving = np.isin(numbers, [x for x in (spike, top) if x is not None], invert=True)
    bandwidth = 0.0
    if moving.sum() > 1:
        effective = weight[moving].sum() ** 2 / squares[moving].sum()
        scaled = weight[moving] * (effective / weight[moving].sum())
        bandwidth = _bandwidth(numbers[moving], scaled)
    return Smoothing(bandwidth, float(numbers[0]), float(numbers[-1]), decimals, spike, top)


def _spike(numbers: Floats, frequency: Floats) -> float | None:
    most = int(frequency.argmax())
    return float(numbers[most]) if frequency[most] > SPIKE_SHARE * frequency.sum() and len(numbers) > 1 else None


def _top(numbers: Floats, frequency: Floats) -> float | None:
    """The largest value, if it is far more frequent than the one below it."""
    if len(numbers) < 2:
        return None
    return float(numbers[-1]) if 10 * frequency[-2] < frequency[-1] - frequency[-2] else None


def _bandwidth(numbers: Floats, frequency: Floats) -> float:
    """Bandwidth of sorted, distinct numbers that occur so often, rounded to 6 digits: sums may end in other bits."""
    n = frequency.sum()
    mean = numbers @ frequency / n
    sd = math.sqrt(max((numbers - mean) ** 2 @ frequency / (n - 1), 0.0)) if n > 1 else 0.0
    quartiles = _quantiles(numbers, frequency, np.array([0.25, 0.75]))
    spread = float(quartiles[1] - quartiles[0])
    found = _sheather_jones(numbers, frequency, min(sd, spread / 1.349) or sd)
    if found is None or found < np.diff(numbers).min():
        found = 0.9 * (min(sd, spread / 1.34) or sd) * float(n) ** -0.2
    return float(f"{found:.6g}")


def _quantiles(numbers: Floats, frequency: Floats, shares: Floats) -> Floats:
    """Quantiles with linear interpolation, as of the numbers repeated so often."""
    after = np.cumsum(frequency)
    first, last = after - frequency, np.maximum(after - 1, after - frequency)
    places = np.column_stack([first, last]).ravel()
    between: Floats = np.interp(shares * (after[-1] - 1), places, np.repeat(numbers, 2))
    return between


def _sheather_jones(numbers: Floats, frequency: Floats, scale: float) -> float | None:
    """Solve the equation of Sheather and Jones (1991, section 2.2); None where it has no solution.

    1. Count values in bins, and by Fourier transform pairs of values at each distance: all sums over pairs of rows
       become sums over distances.
    2. S(a) and T(b) estimate the integrals of f''^2 and of f'''^2 (negative), with normal pilot bandwidths a and b.
    3. h is where h = (R(K) / (n S(alpha(h))))^(1/5), alpha(h) = 1.357 (S(a) / T(b))^(1/7) h^(5/7).
    """
    n = frequency.sum()
    if n <= 2 or scale <= 0:
        return None
    widest = 1.144 * scale * n**-0.2
    extent = numbers[-1] - numbers[0]
    n_bins = int(np.clip(extent / widest * BINS_A_BANDWIDTH, LEAST_BINS, MOST_BINS))
    width = extent / n_bins
    bins = np.minimum(((numbers - numbers[0]) / width).astype(np.int64), n_bins - 1)
    pairs = _pairs(np.bincount(bins, frequency, n_bins).astype(np.float64))

    def integral(h: float, order: int) -> float:
        far = min(int(FAR * h / width) + 2, n_bins)
        squared = (np.arange(far) * (width / h)) ** 2
        if order == 4:
            polynomial = squared**2 - 6 * squared + 3
        else:
            polynomial = squared**3 - 15 * squared**2 + 45 * squared - 15
        total = float(pairs[:far] @ (np.exp(-squared / 2) * polynomial))
        return total / float(n * (n - 1) * h ** (order + 1) * math.sqrt(2 * math.pi))

    second = integral(1.24 * scale * n ** (-1 / 7), 4)
    third = -integral(1.23 * scale * n ** (-1 / 9), 6)
    if not (second > 0 and third > 0):
        return None
    ratio = 1.357 * (second / third) ** (1 / 7)

    def excess(h: float) -> float:
        roughness = integral(ratio * h ** (5 / 7), 4)
        return (1 / (2 * math.sqrt(math.pi) * n * roughness)) ** 0.2 - h if roughness > 0 else math.inf

    from scipy.optimize import brentq

    low, high = 0.1 * widest, widest
    while excess(high) > 0 and high < 4 * widest:
        high *= 1.2
    while excess(low) < 0 and low > 0.001 * widest:
        low /= 1.2
    if not (math.isfinite(excess(low)) and excess(low) >= 0 >= excess(high)):
        return None
    return float(brentq(excess, low, high, rtol=1e-8))


def _pairs(counts: Floats) -> Floats:
    """How many pairs of rows, in both orders, are so many bins apart; a row and itself are a pair."""
    size = 2 ** math.ceil(math.log2(2 * len(counts)))
    of_distance = np.fft.irfft(np.abs(np.fft.rfft(counts, size)) ** 2, size)[: len(counts)]
    of_distance[1:] *= 2
    return of_distance


def reflect(numbers: Floats, low: float, high: float) -> Floats:
    """Numbers beyond a limit as far within it as they were beyond; so no limit is hit by many.

    Examples
    --------
    >>> reflect(np.array([-1.0, 2.0, 12.0]), 0, 10)
    array([1., 2., 8.])
    """
    within = np.where(numbers < low, 2 * low - numbers, numbers)
    within = np.where(within > high, 2 * high - within, within)
    return np.clip(within, low, high)


def smooth_density(drawn: Floats, smoothing: Smoothing, words: Words) -> Floats:
    """Draw each number anew from the normal distribution around it: a draw from a kernel density.

    The variance grows by bandwidth^2; correlations with other columns shrink by sqrt(1 + bandwidth^2 / variance).
    synthpop cuts off what falls below the smallest or above the largest observed value plus a bandwidth. Here it is
    reflected at the smallest and the largest one: that stays within the range and makes nobody's value frequent.

    Parameters
    ----------
    drawn : ndarray of shape (k,)
        Numbers; NaN, spike and top code are left as they are.
    smoothing : Smoothing
    words : ndarray of shape (k,), dtype=uint64

    Returns
    -------
    ndarray of shape (k,)

    Notes
    -----
    O(k).

    Examples
    --------
    >>> from fastsynth.streams import random_words
    >>> smoothing = Smoothing(bandwidth=2.0, low=0.0, high=100.0, decimals=1)
    >>> smooth_density(np.array([50.0, np.nan]), smoothing, random_words(1, (), 2))
    array([48.8,  nan])
    """
    moving = _moving(drawn, smoothing)
    smoothed = drawn.astype(np.float64)
    added = drawn[moving] + smoothing.bandwidth * normal(words[moving])
    smoothed[moving] = _rounded(reflect(added, smoothing.low, smoothing.high), smoothing)
    return smoothed


def smooth_spline(drawn: Floats, smoothing: Smoothing) -> Floats:
    """Replace a whole column by a smoothing spline of its sorted values on their ranks.

    The spline goes through means of about 200 neighbouring groups of ranks; how smooth it is, generalised
    cross-validation finds. Each row gets the value of its rank, so ranks stay. Fewer than 10 numbers are left.

    Parameters
    ----------
    drawn : ndarray of shape (k,)
        Numbers; NaN, spike and top code are left as they are.
    smoothing : Smoothing

    Notes
    -----
    O(k log k).

    Examples
    --------
    >>> drawn = np.arange(1000.0) ** 2
    >>> bool(abs(smooth_spline(drawn, Smoothing(1.0, 0.0, 998001.0)) - drawn).max() < 1000)
    True
    """
    # Loaded where it is needed: it takes as long as half of the package.
    from scipy.interpolate import make_smoothing_spline

    def spline(ordered: Floats) -> Floats:
        starts = np.linspace(0, len(ordered), min(len(ordered), KNOTS) + 1).astype(np.int64)
        sizes = np.diff(starts).astype(np.float64)
        means = np.add.reduceat(ordered, starts[:-1]) / sizes
        middles = (starts[:-1] + starts[1:] - 1) / 2
        level, scale = means.mean(), means.std() or 1.0
        curve = make_smoothing_spline(middles / len(ordered), (means - level) / scale, w=sizes / sizes.mean())
        smooth: Floats = curve(np.arange(len(ordered)) / len(ordered)) * scale + level
        return smooth

    return _by_rank(drawn, smoothing, spline, 10)


def smooth_rmean(drawn: Floats, smoothing: Smoothing, window: int = 5) -> Floats:
    """Replace each number by the mean of the ``window`` sorted ones around it, fewer at both ends.

    Parameters
    ----------
    drawn : ndarray of shape (k,)
        Numbers; NaN, spike and top code are left as they are.
    smoothing : Smoothing
    window : int, default 5
        An odd number.

    Notes
    -----
    O(k log k).

    Examples
    --------
    >>> smooth_rmean(np.array([1.0, 9.0, 2.0, 4.0]), Smoothing(1.0, 1.0, 9.0), window=3)
    array([1.5       , 6.5       , 2.33333333, 5.        ])
    """
    if check_count("window", window) % 2 == 0:
        raise OptionError(f"window={window}: must be an odd number.")

    def running(ordered: Floats) -> Floats:
        ones = np.ones(min(window, 2 * len(ordered) - 1))
        half = len(ones) // 2
        padded = np.pad(ordered, half)
        share = np.convolve(np.pad(np.ones(len(ordered)), half), ones, "valid")
        means: Floats = np.convolve(padded, ones, "valid") / share
        return means

    return _by_rank(drawn, smoothing, running, 2)


def _by_rank(drawn: Floats, smoothing: Smoothing, function: Callable[[Floats], Floats], least: int) -> Floats:
    """Change the sorted numbers that move; each row gets that of its rank."""
    smoothed = drawn.astype(np.float64)
    moving = _moving(drawn, smoothing)
    if len(moving) < least:
        return smoothed
    ranked = moving[np.argsort(drawn[moving], kind="stable")]
    # Sorted again, because curves may bend back, and turn back at the limits.
    changed = np.sort(reflect(function(smoothed[ranked]), smoothing.low, smoothing.high))
    smoothed[ranked] = _rounded(changed, smoothing)
    return smoothed


def _moving(drawn: Floats, smoothing: Smoothing) -> Integers:
    """Rows that smoothing changes."""
    moves = np.isfinite(drawn)
    for value in (smoothing.spike, smoothing.top):
        if value is not None:
            moves &= drawn != value
    return np.flatnonzero(moves)


def _rounded(numbers: Floats, smoothing: Smoothing) -> Floats:
    return numbers if smoothing.decimals is None else np.round(numbers, smoothing.decimals)


# Noise and coding


def add_noise(values: Floats, a: float, sd: float, mean: float, words: Words) -> Floats:
    """Add normal noise of standard deviation ``a * sd``, and pull towards the mean so that the variance stays.

    y' = mean + (y + e - mean) / sqrt(1 + a^2): mean and variance are kept; correlations with other columns, and slopes
    on and of the column, shrink by sqrt(1 + a^2).

    Parameters
    ----------
    values : ndarray of shape (k,)
        Numbers; NaN is left as it is.
    a : float
        Standard deviation of the noise in units of the column's; .1 takes half a percent off correlations.
    sd, mean : float
        Of the column, where possible the observed one.
    words : ndarray of shape (k,), dtype=uint64

    References
    ----------
    Kim (1986), Proceedings of the Section on Survey Research Methods, American Statistical Association.

    Examples
    --------
    >>> from fastsynth.streams import random_words
    >>> add_noise(np.array([10.0, 20.0, np.nan]), 0.1, 5.0, 15.0, random_words(1, (), 3)).round(3)
    array([ 9.722, 19.684,    nan])
    """
    if not 0 < a < math.inf:
        raise OptionError(f"a={a!r}: noise must be a positive share of the column's standard deviation, such as .1.")
    noisy: Floats = mean + (values + a * sd * normal(words) - mean) / math.sqrt(1 + a * a)
    return noisy


def round_to(values: pl.Series, to: float) -> pl.Series:
    """Numbers as the nearest multiples of ``to``, halves as the larger one; null and NaN are left as they are.

    Integers are computed as integers, so that no digit is lost. Where the nearest multiple is beyond what their type
    holds, they become the one before it.

    Parameters
    ----------
    values : polars.Series
        Integers, decimals or fractional numbers.
    to : float
        A positive number; for integers an integer below 2^64.

    Examples
    --------
    >>> round_to(pl.Series([2**60 + 3, -15, None]), 10).to_list()
    [1152921504606846980, -10, None]
    """
    dtype = values.dtype
    if not dtype.is_integer():
        numbers = numbers_of(values, Grid())
        multiples = np.where(np.abs(numbers) < 2**53 * to, np.floor(numbers / to + 0.5) * to, numbers)
        # 0.1 times a whole number ends in other bits than what people write; ten decimals are enough for any ``to``.
        small = np.abs(multiples) < 2**53
        multiples[small] = np.round(multiples[small], 10)
        return with_numbers(values, multiples, Grid())
    step, whole = _wide(int(to)), values.cast(pl.Int128)
    least, most = (_wide(pl.select(limit).item()) for limit in (dtype.min(), dtype.max()))  # type: ignore[attr-defined]
    below = whole // step * step
    above = below + step
    up = (above - whole <= whole - below) & (above <= most) | (below < least)
    return above.zip_with(up, below).cast(dtype)


# Record swapping


@dataclass(frozen=True, slots=True, eq=False)
class Swapped:
    """Records with exchanged regions.

    Attributes
    ----------
    frame : polars.DataFrame
        The rows in their order.
    n_swapped : int
        Households (or records) that have the region of another one; a swap counts two.
    n_left : int
        Risky ones for which there was no partner.
    rows : ndarray of shape (n,)
        For each record the one whose region it has.
    """

    frame: pl.DataFrame
    n_swapped: int
    n_left: int
    rows: Integers


def record_risk(frame: pl.DataFrame, hierarchy: Sequence[str], risk_variables: Sequence[str]) -> Floats:
    """Risk of each record: 1 / the records of the same region with the same risk variables.

    Parameters
    ----------
    frame : polars.DataFrame
    hierarchy : list of str
        Columns that tell the region, coarse to fine.
    risk_variables : list of str
        What an intruder may know. Null is a value.

    Returns
    -------
    ndarray of shape (n,)
        Between 0 and 1.

    Examples
    --------
    >>> frame = pl.DataFrame({"region": [0, 0, 0, 1], "class": ["a", "a", "b", "a"]})
    >>> record_risk(frame, ["region"], ["class"])
    array([0.5, 0.5, 1. , 1. ])
    """
    group = _codes(frame, [*hierarchy, *risk_variables])
    return 1 / np.bincount(group)[group]


def swap_records(
    frame: pl.DataFrame,
    *,
    hierarchy: Sequence[str],
    risk_variables: Sequence[str],
    words: Words,
    similar: Sequence[Sequence[str]] = ((),),
    household: str | None = None,
    carry_along: Sequence[str] = (),
    k_anonymity: int = 3,
    swaprate: float = 0.05,
) -> Swapped:
    """Exchange the regions of risky records with those of similar ones: targeted record swapping.

    1. At each level of the hierarchy, coarse to fine, a household is risky if a member shares region and risk variables
       with fewer than ``k_anonymity`` records, itself among them.
    2. Each risky household that was not yet swapped is swapped with one of another region of that level that has the
       same profile; where there is none, the next profile is tried. Partners are drawn by their risk.
    3. At the finest level others are drawn at random until a share ``swaprate`` of the households of each region are
       swapped.

    Only regions and what goes along with them are exchanged: counts of each region, and all that does not involve
    regions, stay as they are. Associations with the region shrink by about 1 - (share swapped).

    Parameters
    ----------
    frame : polars.DataFrame
        Records.
    hierarchy : list of str
        Columns that tell the region, coarse to fine.
    risk_variables : list of str
        What an intruder may know. Null is a value.
    words : ndarray of shape (n,), dtype=uint64
        Random words, one for each record.
    similar : list of list of str, default [[]]
        Profiles, the strictest first: columns that both households share. An empty one takes anybody.
    household : str, optional
        Column that tells which records move together; by default each moves by itself.
    carry_along : list of str, default ()
        Columns that are exchanged with the regions, such as coordinates.
    k_anonymity : int, default 3
    swaprate : float, default 0.05
        Between 0 and 1; more are swapped if more are risky.

    Returns
    -------
    Swapped

    Raises
    ------
    OptionError
        A list without columns, an unknown column, a swap rate outside 0 to 1.
    DataError
        Records of one household in several regions or with several profiles; no household.

    Notes
    -----
    O(n log n) for each level and profile: partners are proposed to all at once, of proposals that clash the first
    counts, and the rest propose again, a dozen times or so. Risk is that before the first swap, on all levels.

    References
    ----------
    Shlomo, Tudor and Groom (2010), Data swapping for protecting census tables, Privacy in Statistical Databases,
    LNCS 6344:41.
    Package sdcMicro, ``recordSwap``, which does much the same one household at a time.

    Examples
    --------
    >>> from fastsynth.streams import random_words
    >>> frame = pl.DataFrame({"region": [0] * 50 + [1] * 50, "age": [90, *range(20, 69), *range(20, 70)]})
    >>> done = swap_records(
    ...     frame, hierarchy=["region"], risk_variables=["age"], k_anonymity=2, words=random_words(1, (), 100)
    ... )
    >>> done.frame["region"].value_counts().sort("region")["count"].to_list()
    [50, 50]
    """
    _check_columns(frame, hierarchy, risk_variables, similar, household, carry_along)
    check_count("k_anonymity", k_anonymity)
    if not 0 <= swaprate <= 1:
        raise OptionError(f"swaprate={swaprate!r}: must be between 0 and 1.")
    if frame.is_empty():
        return Swapped(frame, 0, 0, np.arange(0))
    house, first = _households(frame, household)
    profiles = [_of_households(frame, columns, house, first) for columns in similar]
    _of_households(frame, carry_along, house, first)  # refuses what differs within a household
    swaps = _Swaps(profiles, words[first])
    risky_at_all = np.zeros(len(first), bool)
    for level in range(1, len(hierarchy) + 1):
        region = _of_households(frame, hierarchy[:level], house, first)
        risk = np.zeros(len(first))
        np.maximum.at(risk, house, record_risk(frame, hierarchy[:level], risk_variables))
        risky = np.round(1 / risk) < k_anonymity
        risky_at_all |= risky
        swaps.swap(np.flatnonzero(risky), region, risk)
    swaps.swap_at_random(region, risk, swaprate)
    moved = swaps.partner >= 0
    donor = np.where(moved, swaps.partner, np.arange(len(first)))
    rows = np.where(moved[house], first[donor[house]], np.arange(frame.height))
    exchanged = frame.select(*hierarchy, *carry_along)[rows]
    return Swapped(frame.with_columns(exchanged), int(moved.sum()), int((risky_at_all & ~moved).sum()), rows)


class _Swaps:
    """Households and the partners found for them, -1 where there is none yet."""

    def __init__(self, profiles: list[Integers], words: Words) -> None:
        self.profiles = profiles
        self.partner = np.full(len(words), -1, np.int64)
        self._words = words
        self._n_rounds = 0

    def _random(self, households: Integers) -> Words:
        self._n_rounds += 1
        return hashed(self._words[households], np.uint64(self._n_rounds))

    def swap_at_random(self, region: Integers, risk: Floats, swaprate: float) -> None:
        """Swap at random until in each region enough are swapped, or no more can be."""
        of_region = np.bincount(region)
        # Half numbers are rounded at random.
        shares = unit(hashed(np.arange(len(of_region), dtype=np.uint64), self._words[0]))
        n_free = -1
        while n_free != (n_free := int((self.partner < 0).sum())):
            free = np.flatnonzero(self.partner < 0)
            moved = of_region - np.bincount(region[free], minlength=len(of_region))
            # A swap counts two: its other half falls on regions as they are large.
            wanted = np.floor(np.maximum(swaprate * of_region - moved, 0) / 2 + shares)
            free = free[np.lexsort((self._random(free), region[free]))]
            places = np.arange(len(free)) - np.searchsorted(region[free], region[free])
            self.swap(free[places < wanted[region[free]]], region, risk)

    def swap(self, wanted: Integers, region: Integers, risk: Floats) -> None:
        """Find partners of other regions, by the first profile that has some."""
        for profile in self.profiles:
            wanted = wanted[self.partner[wanted] < 0]
            if len(wanted):
                self._pair(wanted, profile * (region.max() + 1) + region, region, risk)

    def _pair(self, wanted: Integers, cell: Integers, region: Integers, risk: Floats) -> None:
        """Propose, accept and propose again. A cell is a profile within a region; those of a profile lie together."""
        n_regions = region.max() + 1
        order = np.argsort(cell, kind="stable")
        while len(wanted):
            order = order[self.partner[order] < 0]
            cells, before = cell[order], np.concatenate([[0.0], np.cumsum(risk[order])])
            base = cell[wanted] - region[wanted]
            start, stop = np.searchsorted(cells, base), np.searchsorted(cells, base + n_regions)
            own, end = np.searchsorted(cells, cell[wanted]), np.searchsorted(cells, cell[wanted], "right")
            found = stop - start > end - own
            wanted, start, stop, own, end = (x[found] for x in (wanted, start, stop, own, end))
            # A place among the risks of the profile without those of the own region.
            of_own = before[end] - before[own]
            point = before[start] + unit(self._random(wanted)) * (before[stop] - before[start] - of_own)
            point += np.where(point >= before[own], of_own, 0)
            place = np.clip(np.searchsorted(before, point, "right") - 1, start, stop - 1)
            inside = (place >= own) & (place < end)
            place = np.where(inside, np.where(end < stop, end, own - 1), place)
            self._accept(wanted, order[place])
            wanted = wanted[self.partner[wanted] < 0]

    def _accept(self, wanted: Integers, donor: Integers) -> None:
        """Of proposals that share a household the one with the smallest number counts."""
        number = np.argsort(np.argsort(self._random(wanted), kind="stable"), kind="stable")
        best = np.full(len(self.partner), len(wanted))
        np.minimum.at(best, wanted, number)
        np.minimum.at(best, donor, number)
        taken = (best[wanted] == number) & (best[donor] == number)
        self.partner[wanted[taken]] = donor[taken]
        self.partner[donor[taken]] = wanted[taken]


def _codes(frame: pl.DataFrame, columns: Sequence[str]) -> Integers:
    """Number of the group of rows that agree in all columns, in the order of the values."""
    code = np.zeros(frame.height, np.int64)
    for column in columns:
        values = frame[column]
        if isinstance(values.dtype, pl.Categorical | pl.Enum):
            values = values.cast(pl.String)
        ranks = values.rank("dense").fill_null(0).cast(pl.Int64).to_numpy()
        code = np.unique(code * (int(ranks.max(initial=0)) + 1) + ranks, return_inverse=True)[1]
    return code


def _households(frame: pl.DataFrame, household: str | None) -> tuple[Integers, Integers]:
    """Number of each record's household, and the first record of each."""
    if household is None:
        rows = np.arange(frame.height)
        return rows, rows
    if frame[household].null_count():
        raise DataError(f"Column {household!r} tells households, and has missing values. Fill them, or name another.")
    house = _codes(frame, [household])
    return house, np.unique(house, return_index=True)[1]


def _of_households(frame: pl.DataFrame, columns: Sequence[str], house: Integers, first: Integers) -> Integers:
    """Number of the group of each household; its records have to agree."""
    code = _codes(frame, columns)
    if not np.array_equal(code[first][house], code):
        raise DataError(
            f"Records of one household differ in {', '.join(map(repr, columns))}: regions, profiles and what is "
            "carried along must be those of the household."
        )
    return code[first]


def _check_columns(
    frame: pl.DataFrame,
    hierarchy: Sequence[str],
    risk_variables: Sequence[str],
    similar: Sequence[Sequence[str]],
    household: str | None,
    carry_along: Sequence[str],
) -> None:
    if isinstance(similar, str) or not similar:
        raise OptionError(f"similar={similar!r}: must be a list of lists of columns; [[]] takes anybody as similar.")
    lists = [("hierarchy", hierarchy), ("risk_variables", risk_variables), ("carry_along", carry_along)]
    for name, columns in [*lists, *(("each list of similar", columns) for columns in similar)]:
        if isinstance(columns, str) or not isinstance(columns, Sequence):
            raise OptionError(f"{name} is {columns!r}: must be a list of columns.")
    if not hierarchy or not risk_variables:
        raise OptionError("Record swapping needs at least one column in hierarchy and one in risk_variables.")
    used = [*hierarchy, *risk_variables, *carry_along, *(name for columns in similar for name in columns)]
    for column in used if household is None else [*used, household]:
        if column not in frame.columns:
            raise OptionError(f"No column {column!r}; there are {', '.join(frame.columns)}.")
