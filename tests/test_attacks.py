"""Attacks find what was leaked on purpose, and nothing where nothing was."""

from __future__ import annotations

import datetime
import decimal

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastsynth as fs
from fastsynth import attacks, shadows, space
from fastsynth.attacks import attack_copies, attack_recipe, inference, linkability, membership, singling_out
from fastsynth.errors import DataError, OptionError
from fastsynth.execute import Threads
from fastsynth.scores import Attack, Statistic, attacks_table, bootstrap, risk, roc, wilson
from fastsynth.shadows import shadow_models
from fastsynth.space import Points, Space, nearest


def population(n, seed):
    """People with two numbers that go together, two categories and a date; some values are missing."""
    random = np.random.default_rng(seed)
    age = random.integers(18, 90, n)
    income = np.round(np.exp(random.normal(7, 1, n) + age / 50), 2)
    region = random.choice(list("abcdefgh"), n)
    status = np.where(random.random(n) < 0.8, np.where(age > 40, "married", "single"), "other")
    born = [
        datetime.date(2020, 1, 1) - datetime.timedelta(days=int(a) * 365 + int(d)) for a, d in zip(age, region == "a")
    ]
    frame = pl.DataFrame({"age": age, "income": income, "region": region, "status": status, "born": born})
    missing = pl.Series(random.random(n) < 0.05)
    return frame.with_columns(pl.when(missing).then(None).otherwise(pl.col("income")).alias("income"))


@pytest.fixture(scope="module")
def people():
    return population(1_200, 1), population(1_200, 2), population(1_200, 3)


def value(found, name, statistic):
    return next(attack for attack in found if attack.name == name)[statistic]


# --- Distances ---


def naive_distance(frame, i, other, j, scale, centre):
    total = 0.0
    for name in frame.columns:
        a, b = frame[name][i], other[name][j]
        if not frame[name].dtype.is_numeric():
            total += a != b
            continue
        kinds = ["null" if x is None else "nan" if np.isnan(x) else "" for x in (a, b)]
        x, y = (0 if k else np.arcsinh((v - centre[name]) / scale[name]) for k, v in zip(kinds, (a, b)))
        total += (x - y) ** 2 + (kinds[0] != kinds[1])
    return np.sqrt(total)


def test_distances_are_those_of_a_plain_loop():
    random = np.random.default_rng(5)
    frame = pl.DataFrame(
        {
            "x": [*random.normal(0, 3, 30).round(1), None, None, float("nan"), float("nan")],
            "n": random.integers(0, 9, 34),
            "c": random.choice(["u", "v", ""], 34),
        }
    )
    own = Space.of([frame])
    seen = frame["x"].drop_nulls().drop_nans().sort()
    scale, centre = {}, {}
    for name, values in (("x", seen), ("n", frame["n"].sort())):
        counts = len(values)
        q = [values[int(np.ceil(p * counts)) - 1] for p in (0.25, 0.5, 0.75)]
        scale[name], centre[name] = q[2] - q[0], q[1]
    points = own.points(frame)
    distances, rows = nearest(points, points, 34)
    for i in range(34):
        expected = np.array([naive_distance(frame, i, frame, j, scale, centre) for j in range(34)])
        np.testing.assert_allclose(distances[i], np.sort(expected), atol=2e-6)
        np.testing.assert_allclose(expected[rows[i]], distances[i], atol=2e-6)


def test_dcr_and_nndr_of_the_vector():
    original, synthetic = np.array([0.0, 1.0, 5.0]), np.array([0.1, 2.0, 5.0])
    two = np.sort(np.abs(synthetic[:, None] - original), axis=1)[:, :2]
    dcr, nndr = attacks.closest(two)
    np.testing.assert_allclose(dcr, [0.1, 1, 0], atol=1e-12)
    np.testing.assert_allclose(nndr, [0.111111, 0.5, 0], atol=5e-7)
    assert attacks.closest(np.zeros((1, 2)))[1][0] == 1


def test_equal_rows_are_at_distance_zero_and_come_in_order():
    frame = pl.concat([population(50, 3)] * 2)
    points = Space.of([frame]).points(frame)
    distances, rows = nearest(points, points, 2)
    assert (distances == 0).all()
    assert (rows[:50, 0] == np.arange(50)).all()
    assert (rows[:50, 1] == np.arange(50, 100)).all()


def test_pieces_of_the_index_and_threads_change_nothing(monkeypatch, people):
    members, others, _ = people
    own = Space.of([members, others])
    targets, index = own.points(members), own.points(others)
    expected = nearest(targets, index, 5, Threads(1))
    monkeypatch.setattr(space, "BLOCK_ROWS", 7)
    monkeypatch.setattr(space, "BLOCK_CELLS", 100)
    found = nearest(targets, index, 5, Threads(2))
    assert all((a == b).all() for a, b in zip(expected, found))


def test_kinds_of_columns():
    day = datetime.date(2020, 1, 1)
    frame = pl.DataFrame(
        {
            "b": [True, False, None],
            "d": [day, None, day],
            "t": [datetime.datetime(2020, 1, 1), datetime.datetime(2021, 1, 1), None],
            "e": pl.Series(["x", "y", None], dtype=pl.Enum(["y", "x"])),
            "k": pl.Series(["x", "y", None], dtype=pl.Categorical),
            "z": [decimal.Decimal("1.50"), None, decimal.Decimal("2.50")],
            "i": [float("inf"), 1.0, 2.0],
            "n": [None, None, None],
            "o": [float("nan"), float("nan"), None],
        }
    )
    points = Space.of([frame]).points(frame)
    assert points.is_number == (False, True, True, False, False, True, True, False, True)
    assert np.isfinite(points.values).all()
    assert points.ranks[8].tolist() == [-2, -2, -1]
    distances = nearest(points, points, 3)[0]
    assert (distances[:, 0] == 0).all()
    assert np.isfinite(distances).all()
    # Text in one table and categories in the other are the same; a value that was not seen differs from all.
    text = frame.with_columns(pl.col("e", "k").cast(pl.String), i=pl.lit(1.5))
    other = Space.of([frame]).points(text)
    assert (other.ranks[3] == points.ranks[3]).all()
    assert not np.isin(other.ranks[6], points.ranks[6]).any()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(allow_infinity=True)), min_size=1, max_size=20))
def test_any_number_has_a_point(values):
    frame = pl.DataFrame({"x": pl.Series(values, dtype=pl.Float64)})
    points = Space.of([frame]).points(frame)
    assert np.isfinite(points.values).all()
    shown = [None if v is None else "nan" if v != v else v for v in values]
    for i, a in enumerate(shown):
        for j, b in enumerate(shown):
            assert (points.ranks[0, i] == points.ranks[0, j]) == (a == b)


def test_what_cannot_be_compared_is_refused():
    frame = pl.DataFrame({"x": [1, 2]})
    for bad, match in (
        ([frame, frame[:0]], "one of them is empty"),
        ([frame, pl.DataFrame({"y": [1]})], "'x' is missing"),
        ([frame, pl.DataFrame({"x": ["a"]})], "text in another"),
        ([pl.DataFrame({"x": [[1]]})], "is List"),
    ):
        with pytest.raises(DataError, match=match):
            Space.of(bad)
    points = Space.of([frame]).points(frame)
    with pytest.raises(DataError, match="3 nearest of 2"):
        nearest(points, points, 3)


# --- Rates ---


def naive_roc(scores, member):
    inside, outside = scores[member], scores[~member]
    auc = np.mean([(a > b) + (a == b) / 2 for a in inside for b in outside])
    levels = [np.inf, *np.unique(scores)]
    rates = [((inside >= t).mean(), (outside >= t).mean()) for t in levels]
    return auc, [max(t for t, f in rates if f <= share) for share in (0.01, 0.001)], max(t - f for t, f in rates)


@pytest.mark.parametrize("seed", range(4))
def test_roc_is_that_of_a_plain_loop(seed):
    random = np.random.default_rng(seed)
    member = random.random(300) < 0.4
    scores = np.round(random.normal(0, 1, 300) + member, seed)
    found = roc(scores, member)
    auc, rates, advantage = naive_roc(scores, member)
    assert found["AUC"][0] == pytest.approx(auc, abs=1e-12)
    assert found["advantage"][0] == pytest.approx(advantage, abs=1e-12)
    assert [found[f"TPR at FPR {s} %"][0] for s in ("1", "0.1")] == pytest.approx(rates, abs=1e-12)
    # Weights count targets that often.
    weights = random.integers(0, 4, 300).astype(float)
    often = np.repeat(np.arange(300), weights.astype(int))
    for name, of_repeated in roc(scores[often], member[often]).items():
        assert roc(scores, member, weights[None])[name][0] == pytest.approx(of_repeated[0], abs=1e-12)


def test_bootstrap_draws_with_replacement():
    counts = bootstrap(50, 1, 9)
    assert counts.shape == (400, 50)
    assert (counts.sum(axis=1) == 50).all()
    assert counts.var() == pytest.approx(1 - 1 / 50, abs=0.05)


def test_wilson_and_risk_by_hand():
    # Wilson: (p + z^2 / 2n) / (1 + z^2 / n), written in another way.
    z2, p, n = 3.841458821, 0.3, 40
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2) / (1 + z2 / n) * np.sqrt(p * (1 - p) / n + z2 / (4 * n**2))
    assert wilson(12, 40) == pytest.approx((centre, half), abs=1e-9)
    c, c_half = wilson(4, 40)
    found, low, high = risk((12, 40), (4, 40))
    assert found == pytest.approx((centre - c) / (1 - c))
    step = 1e-6
    slopes = [((centre + step - c) / (1 - c) - found) / step, ((centre - c - step) / (1 - c - step) - found) / step]
    assert high - low == pytest.approx(2 * np.hypot(slopes[0] * half, slopes[1] * c_half), abs=1e-5)
    assert risk((5, 100), (50, 100)) == (0, 0, 0)
    assert risk((100, 100), (0, 100))[2] <= 1


def test_few_nonmembers_leave_low_rates_open(people):
    members, others, synthetic = people
    found = membership(members, others[:90], [synthetic])[0]
    assert found["TPR at FPR 1 %"] is None
    assert found["TPR at FPR 0.1 %"] is None
    assert found["AUC"] is not None
    table = attacks_table([found])
    assert "Needs 1,000 non-members, there are 90." in table["note"].to_list()
    assert not found.records["called"].any()
    with pytest.raises(KeyError):
        found["risk"]


# --- Attacks without refits ---


def test_leaks_on_purpose_are_found(people):
    members, others, _ = people
    found = attack_copies(
        members,
        [members, members.reverse()],
        others,
        keys=["age", "income"],
        targets=["status", "region"],
        distances=True,
    )
    for name, least in (("distance", 0.95), ("density ratio", 0.95), ("values", 0.85)):
        assert value(found, f"membership ({name})", "AUC") > least, name
    assert value(found, "membership (distance)", "TPR at FPR 1 %") > 0.95
    assert value(found, "membership (density ratio)", "TPR at FPR 1 %") > 0.7
    for name in ("singling out (univariate)", "singling out (multivariate)"):
        assert value(found, name, "risk") > 0.7, name
    assert value(found, "linkability", "risk") > 0.7
    assert value(found, "inference of status", "risk") > 0.8
    assert value(found, "inference of region", "risk") > 0.8
    assert value(found, "distances", "DCR, median") == 0
    assert value(found, "distances", "closer to members") > 0.99
    table = attacks_table(found)
    assert table.columns == ["attack", "statistic", "value", "low", "high", "baseline", "n_targets", "note"]
    assert table.filter(pl.col("attack") == "distances")["note"].str.contains("no evidence of safety").all()
    for low, high in table.select("low", "high").drop_nulls().rows():
        assert low <= high
    records = found[0].records
    assert records["row"].to_list() == list(range(1_200))
    assert records["called"].mean() > 0.95


def test_a_fresh_sample_leaks_nothing(people):
    members, others, fresh = people
    found = attack_copies(members, [fresh], others, keys=["age", "born"], targets=["status", "income"], distances=True)
    # Standard error of an AUC of scores without meaning.
    n, n_others = 1_200, 600
    error = np.sqrt((n + n_others + 1) / (12 * n * n_others))
    for name in ("distance", "density ratio", "values"):
        assert abs(value(found, f"membership ({name})", "AUC") - 0.5) < 4 * error, name
        assert value(found, f"membership ({name})", "TPR at FPR 1 %") < 0.01 + 4 * np.sqrt(0.01 / n_others)
    for attack in found[3:-1]:
        limits = next(s for s in attack.statistics if s.name == "risk")
        # Intervals are of 95 %; twice as wide ones hold for all of these.
        assert limits.value - 2 * (limits.value - limits.low) <= 0.02, attack.name
    assert abs(value(found, "distances", "z")) < 5


def test_the_control_takes_away_what_is_true_of_the_population():
    """Status follows from age in everybody, so that it is inferred of members and others alike."""

    def sure(n, seed):
        return population(n, seed).with_columns(
            status=pl.when(pl.col("age") > 40).then(pl.lit("m")).otherwise(pl.lit("s"))
        )

    found = inference(sure(800, 1), sure(800, 2), [sure(800, 3)], ["age"], "status")
    assert found["success"] > 0.95
    assert found["control"] > 0.95
    assert found.statistics[0].low == 0


def test_numbers_are_inferred_within_a_tolerance():
    members = pl.DataFrame({"k": [1.0, 2, 3, 4] * 5, "x": [-100.0, 100, 0, None] * 5})
    copy = pl.DataFrame({"k": [1.0, 2, 3, 4], "x": [-96.0, 94, 0.001, None]})
    # A negative guess is no better than another: only -96 (off by 4 %) and null are right.
    assert inference(members, members, [copy], ["k"], "x")["success"] == 0.5
    assert inference(members, members, [copy], ["k"], "x", tolerance=0.07)["success"] == 0.75


def test_link_needs_the_same_row():
    random = np.random.default_rng(1)
    members = pl.DataFrame({name: random.normal(size=300) for name in "abcd"})
    others = pl.DataFrame({name: random.normal(size=300) for name in "abcd"})
    broken = members.with_columns(pl.col("c", "d").reverse())
    whole, halves = (
        linkability(members, others, [copy], ["a", "b"], ["c", "d"], neighbours=1) for copy in (members, broken)
    )
    assert whole["success"] == 1
    assert whole["risk"] > 0.97
    assert halves["success"] < 0.05
    # The guess: two random rows of 300 are the same.
    assert whole.statistics[1].baseline == pytest.approx(1 / 300)


def test_singling_out_counts_rows_that_are_alone():
    members = pl.DataFrame({"x": [*range(100)], "c": ["a"] * 99 + ["rare"]})
    others = pl.DataFrame({"x": [*range(1_000, 1_100)], "c": ["a"] * 100})
    found = {attack.name: attack for attack in singling_out(members, others, [members])}
    # 100 values of x, the largest, the smallest, the rare category; "at least 99" is true of all others, too.
    assert found["singling out (univariate)"].n_targets == 103
    assert found["singling out (univariate)"]["success"] == 1
    assert found["singling out (univariate)"]["control"] == 0
    alike = pl.DataFrame({"x": [1] * 30, "c": ["a"] * 30})
    kinds = {attack.name for attack in singling_out(members, others, [alike])}
    assert kinds <= {"singling out (univariate)"}


def test_samples_of_large_tables_are_told(monkeypatch, people):
    members, others, fresh = people
    monkeypatch.setattr(attacks, "MOST_TARGETS", 300)
    monkeypatch.setattr(attacks, "MOST_INDEX", 400)
    found = attack_copies(members, [fresh, members], others, keys=["age"], targets=["status"], distances=True)
    notes = {attack.name: attack.note for attack in found}
    assert notes["membership (distance)"] == "300 of 1,200 members, 300 of 600 non-members, 400 of 2,400 synthetic rows"
    assert "400 of 1,200 members" in notes["singling out (univariate)"]
    assert "300 of 2,400 synthetic rows" in notes["distances"]
    rows = found[0].records["row"].to_numpy()
    assert len(rows) == 300
    assert (np.diff(rows) > 0).all()
    assert rows[-1] > 300


def test_same_state_same_numbers_for_any_threads(people):
    members, others, fresh = people
    one, two = (
        attacks_table(
            attack_copies(members, [fresh], others, keys=["age"], targets=["status"], random_state=4, threads=t)
        )
        for t in (1, 2)
    )
    assert one.equals(two)


def test_categories_of_copies_may_be_coded_otherwise(people):
    members, others, _ = people
    coded = members.with_columns(
        pl.col("region").cast(pl.Enum(list("hgfedcba"))),
        pl.col("status").cast(pl.Categorical),
        pl.col("age").cast(pl.Float64),
    )
    plain, other = (membership(members, others, [copy, copy])[0]["AUC"] for copy in (members, coded))
    assert plain == other


def test_bad_options_of_attacks(people):
    members, others, fresh = people
    cases = [
        (lambda: attack_copies(members, [], others), DataError, "at least one copy"),
        (lambda: attack_copies(members, [fresh], others[:19]), DataError, "at least 20 rows; there are 19"),
        (lambda: attack_copies(members, [fresh], others.drop("age")), DataError, "lacks column 'age'"),
        (lambda: attack_copies(members, [pl.DataFrame({"q": [1]})], others), DataError, "no column of the original"),
        (lambda: attack_copies(members.to_pandas(), [fresh], others), DataError, "polars DataFrames, not"),
        (lambda: attack_copies(members, [fresh], others, keys=["no"]), OptionError, "keys="),
        (lambda: attack_copies(members, [fresh], others, keys="age"), OptionError, "must be a list"),
        (lambda: attack_copies(members, [fresh], others, targets=[]), OptionError, "targets="),
        (lambda: attack_copies(members, [fresh], others, random_state=-1), OptionError, "non-negative"),
        (lambda: inference(members, others, [fresh], ["age"], "age"), OptionError, "not be one of the keys"),
        (lambda: inference(members, others, [fresh], ["age"], "born", tolerance=-1), OptionError, "tolerance="),
        (lambda: linkability(members, others, [fresh], ["age"], ["age", "born"]), OptionError, "may not share"),
        (lambda: singling_out(members, others, [fresh], attacks=0), OptionError, "attacks=0"),
        (lambda: membership(members, others, []), DataError, "at least one copy"),
        (lambda: attack_recipe(members, None), OptionError, "no recipe"),
        (lambda: attack_recipe(members, fs.Synthesizer(), holdout=1), OptionError, "holdout=1"),
        (lambda: attack_recipe(members[:60], fs.Synthesizer()), DataError, "60 rows with holdout=0.2"),
        (lambda: shadow_models(members, fs.Synthesizer(), shadows=9), OptionError, "even number of at least 8"),
        (lambda: shadow_models(members, fs.Synthesizer(), shadows=6), OptionError, "even number of at least 8"),
        (lambda: shadow_models(members[:100], fs.Synthesizer()), DataError, "only 100 rows"),
    ]
    for call, error, match in cases:
        with pytest.raises(error, match=match):
            call()


# --- Attacks with refits ---


class Released:
    """A synthesis that releases what a function makes of its rows."""

    def __init__(self, release, random_state=0, m=1, threads=None, client=None, progress=None):
        self.release, self.random_state, self.m = release, random_state, m

    def get_params(self):
        return {"release": self.release}

    def fit(self, rows):
        self.rows = rows
        return self

    def sample(self, m, random_state):
        return Copies(self.release(self.rows, random_state) for _ in range(m))


class Copies(list):
    identifiers = ()


@pytest.mark.parametrize(
    "recipe",
    [
        fs.Synthesizer(),
        fs.Synthesizer(proper=True),
        fs.Synthesizer(columns={"name": fs.Column(method=fs.Identifier())}),
        fs.Synthesizer(columns={"reg": fs.Column(method="keep"), "age": fs.Column(guard=fs.Guard(max_copies=9))}),
    ],
    ids=["default", "proper", "identified", "guarded"],
)
def test_copies_of_shadow_models_are_those_of_the_recipe(recipe):
    named = "name" if recipe.columns and "name" in recipe.columns else []
    rows = fs.load_boys()[:200].with_columns(name=pl.format("b{}", pl.int_range(pl.len()) + 1000))
    rows = rows if named else rows.drop("name")
    options = recipe.get_params() | {"m": 2, "random_state": 5}
    expected = list(fs.Synthesizer(**options).fit(rows).sample(m=2, random_state=5))
    for found, copy in zip(shadows.sample(recipe, rows, 2, 5), expected, strict=True):
        assert found.schema == copy.drop(named).schema
        assert found.equals(copy.drop(named))


def test_shadow_models_do_not_estimate_for_pooling(monkeypatch):
    monkeypatch.setattr(fs.Synthesizer, "_large_draw", lambda *_: pytest.fail("a draw for pooling"))
    assert len(shadows.sample(fs.Synthesizer(), fs.load_boys()[:200], 2, 5)) == 2


def test_shadow_models_tell_all_where_rows_are_released(people):
    found = shadow_models(people[0], Released(lambda rows, _: rows), shadows=8, targets=40, m=2)
    assert [attack.name for attack in found] == [f"shadow models ({g})" for g in ("all", "outlying", "random")]
    assert found[0]["AUC"] > 0.99
    assert found[0].n_targets == 40
    assert found[1].n_targets == 20
    assert found[0]["AUC, worst tenth of targets"] == 1
    assert found[0].records["group"].value_counts()["count"].to_list() == [20, 20]
    assert found[0].records["row"].is_unique().all()


def test_shadow_models_tell_nothing_where_nothing_is_released(people):
    found = shadow_models(people[0], Released(lambda rows, seed: population(600, 100 + seed)), shadows=32, targets=60)
    for attack in found:
        auc = attack.statistics[0]
        assert auc.low < 0.5 < auc.high, attack.name
    # Errors of pairs of a run are those of 32 x 60 pairs at best, of 32 at worst.
    assert abs(found[0]["AUC"] - 0.5) < 4 * np.sqrt((32 + 1) / (12 * 16 * 16)) / np.sqrt(8)
    assert found[0]["TPR at FPR 0.1 %"] is None


def test_scores_of_noise_are_noise():
    random = np.random.default_rng(0)
    runs, targets = 24, 100
    member = np.repeat(random.random((runs // 2, targets)) < 0.5, 2, axis=0)
    member[1::2] = ~member[1::2]
    scores = shadows._cross_fitted(random.normal(size=(runs, targets, 30)), member)
    auc = roc(scores.ravel(), member.ravel())["AUC"][0]
    assert abs(auc - 0.5) < 4 * np.sqrt((runs * targets + 1) / (12 * (runs * targets / 2) ** 2))
    # A feature tells more once each target's own level is taken away.
    level, own = 10 * random.normal(size=(1, targets, 3)), random.normal(size=(runs, targets, 3))
    signal = own + level + member[:, :, None]
    assert roc(shadows._cross_fitted(signal, member).ravel(), member.ravel())["AUC"][0] > 0.8


def test_each_target_is_in_half_of_the_runs(people):
    seen = []
    shadow_models(
        people[0][:201], Released(lambda rows, _: seen.append(rows) or rows), shadows=8, targets=10, threads=1
    )
    sizes = [rows.height for rows in seen[1:] if rows.height < 201]
    assert set(sizes) == {100}
    for first, second in zip(seen[1::10], seen[6::10]):
        assert first.join(second, on=first.columns, how="semi", nulls_equal=True).height == 0


def test_small_leaves_are_found_out_and_the_default_less():
    boys = fs.load_boys()
    leaf = shadow_models(boys, fs.Synthesizer(method=fs.Cart(minbucket=1)), shadows=8, targets=60, random_state=1)
    assert leaf[0]["AUC"] > 0.9
    # Without the column that is drawn first, whose unique values are real ones.
    rounded = boys.with_columns(pl.col("age").round(0))
    found = [
        shadow_models(rounded, fs.Synthesizer(method=method), shadows=16, targets=60, random_state=1)[0]["AUC"]
        for method in (fs.Cart(minbucket=1), fs.Calibrated())
    ]
    assert found[0] > 0.9 > 0.85 > found[1]


def test_a_recipe_is_attacked_by_its_siblings():
    boys = fs.load_boys()
    syn = fs.synthesize(boys, m=2, method=fs.Cart(minbucket=1), random_state=1)
    before = boys.clone()
    found = attack_recipe(boys, syn.recipe, holdout=0.5, m=3, shadows=8, keys=["age", "hgt"], targets=["reg"])
    assert boys.equals(before)
    names = [attack.name for attack in found]
    assert names[:3] == ["membership (distance)", "membership (density ratio)", "membership (values)"]
    assert names[-3:] == ["shadow models (all)", "shadow models (outlying)", "shadow models (random)"]
    assert found[0]["AUC"] > 0.9
    # Numbers of the records are of the original, of rows that were not held out.
    rows = found[0].records["row"].to_numpy()
    assert len(rows) == 374
    assert rows.max() > 600
    again = attack_recipe(
        boys, syn.recipe, holdout=0.5, m=3, shadows=8, keys=["age", "hgt"], targets=["reg"], threads=1
    )
    assert attacks_table(found).equals(attacks_table(again))


def test_identifiers_are_not_attacked():
    boys = fs.load_boys().with_row_index("id").with_columns(pl.col("id").cast(pl.Int64))
    recipe = fs.Synthesizer(columns={"id": fs.Column(method=fs.Identifier())}, method="cart")
    found = attack_recipe(boys, recipe, m=1, holdout=0.5)
    assert value(found, "membership (values)", "AUC") < 0.999
    assert Attack("x", 1, (Statistic("risk", 0.5),))["risk"] == 0.5
    assert isinstance(Space.of([boys]).points(boys), Points)
