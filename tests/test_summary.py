"""One value a checkpoint: error bars on chains whose error is known, changes, means over runs, what diverged chains have a part in."""

import numpy as np
import pytest
from made_results import CHAINS, DRAWS, ar1, codes, findings, of_runs, tree, two_temperatures

from jaxllc import diagnostics
from jaxllc.estimator import corrected_draws, summary


def averaged(made):
    """Over the runs of a result."""
    return diagnostics.over_runs(summary(made), corrected_draws(made))


def test_standard_errors_cover():
    """Of 200 estimates of a known mean, the share within two standard errors is 95.4 %, to three binomial errors (1.5 % each)."""
    draws = ar1(200)
    table = summary(tree(draws))
    z = (table["llc"].values - 10) / table["std_error"].values
    assert abs(np.mean(np.abs(z) < 2) - 0.954) < 3 * np.sqrt(0.954 * 0.046 / 200)
    exact = np.sqrt(1 / (1 - 0.81) * 19 / (CHAINS * DRAWS))
    assert np.median(table["std_error"].values) == pytest.approx(exact, rel=0.1)
    assert np.median(table["ess"].values) == pytest.approx(CHAINS * DRAWS / 19, rel=0.1)


def test_standard_errors_cover_what_is_slow_and_quiet():
    """A slow part beneath a loud fast one hides from a chain's autocorrelation, and makes chains differ: of 200 means at least 89 % lie within two errors.

    Eight chains' spread covers in 91 % (Student's t of 7 degrees of freedom), less two binomial errors. Seen to fail with the error by autocorrelation alone,
    which covers in 68 %.
    """
    from scipy.signal import lfilter

    rng = np.random.default_rng(0)
    phi = np.exp(-1 / 300)
    push = rng.normal(size=(200, 8, 1333)) * 0.1 * np.sqrt(1 - phi**2)
    push[..., 0] = 0.1 * rng.normal(size=(200, 8))
    draws = 10 + rng.normal(size=push.shape) + lfilter([1], [1, -phi], push, axis=-1)
    table = summary(tree(draws))
    z = (table["llc"].values - 10) / table["std_error"].values
    assert 0.89 < np.mean(np.abs(z) < 2) < 0.98


def test_changes_are_paired():
    """Two checkpoints whose chains share their noise: the error of the change is that of the difference alone."""
    common = ar1(1)[0]
    table = summary(tree([common, common + 0.5 + 0.01 * ar1(1, seed=1, mean=0)[0]]))
    assert table["change"].values[1] == pytest.approx(0.5, abs=4 * table["change_error"].values[1])
    assert table["change_error"].values[1] < 0.03 * table["std_error"].values[1]
    assert np.isnan(table["change"].values[0])


def test_runs_are_judged_one_by_one():
    draws = ar1(6).reshape(2, 3, CHAINS, DRAWS)
    draws[1, 0, 2, 3] = np.nan
    draws[0, 1] += 5
    both = summary(of_runs(draws))
    for run in (0, 1):
        alone = summary(tree(draws[run]))
        for name, column in alone.items():
            np.testing.assert_array_equal(both[name].isel(run=run), column, err_msg=name)
    found = findings(of_runs(draws))
    assert found == findings(tree(draws[0])) + findings(tree(draws[1]))
    assert ["diverged" in [finding.code for finding in row] for row in found] == [False, False, False, True, False, False]


def test_the_error_over_runs_holds_the_noise_that_they_share():
    """Three runs whose values spread by 0.02 and whose draws have common noise (0.9) and their own (0.3): the error covers, and is not much too large.

    Of 200 replicas, in place of steps, the mean lies within two errors in 95.4 %, less three binomial errors; the square of the error is not too small, and at
    most a third too large (of four chains, the larger of two errors). Seen to fail without the shared part, which is four fifths of the whole.
    """
    rng = np.random.default_rng(3)
    size, runs, chains, num = 200, 3, 4, 250
    common, own = rng.normal(size=(1, size, chains, num)), rng.normal(size=(runs, size, chains, num))
    draws = 10 + 0.02 * rng.normal(size=(runs, size, 1, 1)) + 0.9 * common + 0.3 * own
    table = averaged(of_runs(draws))
    exact = 0.02**2 / runs + (0.9**2 + 0.3**2 / runs) / (chains * num)
    squares = table["std_error"].values ** 2
    assert -0.02 < squares.mean() / exact - 1 < 1 / 3
    assert np.mean((table["llc"].values - 10) ** 2 < 4 * squares) > 0.954 - 3 * np.sqrt(0.954 * 0.046 / size)
    np.testing.assert_allclose(table["llc"], draws.mean((0, 2, 3)), rtol=1e-6)


def test_a_run_without_a_finite_chain_is_left_out_of_the_mean():
    draws = ar1(6).reshape(3, 2, CHAINS, DRAWS)
    draws[1, 0] = np.nan
    table = averaged(of_runs(draws))
    without = averaged(of_runs(draws[[0, 2]]))
    for name in ("llc", "std_error"):
        assert table[name].values[0] == pytest.approx(without[name].values[0])
    assert np.isnan(averaged(of_runs(draws[:1]))["std_error"]).all()


def test_mean_loss_and_loss():
    table = summary(tree(ar1(1)))
    assert table["loss"].values[0] == 2
    assert table["mean_loss"].values[0] == pytest.approx(2 + table["llc"].values[0])


def test_diverged_chains_are_counted_and_masked():
    draws = ar1(1)
    whole = summary(tree(draws[:, 2:]))
    draws[0, 0, 500:] = np.nan
    draws[0, 1, 999] = np.inf
    found = findings(tree(draws))[0]
    assert [finding.code for finding in found] == ["diverged"]
    assert "2 of 8" in found[0].message
    masked = summary(tree(draws))
    assert masked["num_diverged"].values[0] == 2
    for name in ("llc", "std_error", "rhat", "ess"):
        assert masked[name].values[0] == pytest.approx(whole[name].values[0])


def test_when_all_chains_diverge_the_value_is_nan():
    draws = np.full((2, CHAINS, DRAWS), np.nan)
    draws[1] = ar1(1)[0]
    table = summary(tree(draws))
    assert np.isnan(table["llc"].values[0])
    assert np.isfinite(table["llc"].values[1])
    assert codes(draws) == ["diverged"]


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_chain_that_broke_in_the_middle_has_no_part_in_the_drift(bad):
    draws = ar1(1) + np.linspace(0, 1, DRAWS)
    whole = summary(tree(draws[:, 1:]))
    draws[0, 0, 500] = bad
    for name in ("drift", "drift_error", "step_bias"):
        assert summary(tree(draws))[name].values[0] == pytest.approx(whole[name].values[0])


def test_one_chain_has_no_rhat_and_no_error_from_spread():
    table = summary(tree(ar1(1)[:, :1]))
    assert np.isnan(table["rhat"].values[0])
    assert table["std_error"].values[0] > 0
    assert codes(ar1(1)[:, :1]) == ["few-effective-draws"]


def test_chains_that_broke_at_one_temperature_are_left_out_of_both():
    first, second = ar1(1)[0], ar1(1, seed=1)[0]
    broken = second.copy()
    first_broken = first.copy()
    first_broken[0], broken[0] = np.nan, broken[0] + 50
    table, kept = (summary(two_temperatures(*rungs)) for rungs in ((first_broken, broken), (first[1:], second[1:])))
    for name in ("llc", "llc_at_nbeta", "mean_loss", "rhat", "ess"):
        assert table[name].values[0] == pytest.approx(kept[name].values[0])
    assert table["num_diverged"].values[0] == 1


def test_what_all_chains_correct_is_in_the_values_and_in_no_draw():
    """In the coefficient, in what is said of its change and at nbeta alone, and with the other sign in the step's bias; error bars do not know it."""
    draws = ar1(2)
    plain, corrected = summary(tree(draws)), summary(tree(draws, correction=np.array([3.0, 7.0])))
    np.testing.assert_allclose(corrected["llc"] - plain["llc"], [3, 7], rtol=1e-6)
    np.testing.assert_allclose(corrected["mean_loss"] - plain["mean_loss"], [3, 7], rtol=1e-6)
    np.testing.assert_allclose(corrected["step_bias"] - plain["step_bias"], [-3, -7], rtol=1e-6)
    assert float(corrected["change"][1] - plain["change"][1]) == pytest.approx(4)
    for name in ("std_error", "rhat", "ess", "drift", "change_error"):
        np.testing.assert_array_equal(corrected[name], plain[name], err_msg=name)
    np.testing.assert_allclose(corrected_draws(tree(draws, correction=np.array([3.0, 7.0]))), draws + np.array([3.0, 7.0])[:, None, None], rtol=1e-6)


def test_the_acceptance_is_that_of_finite_chains():
    draws = ar1(1)
    draws[0, 0, 5] = np.nan
    rates = np.array([[0.1] + [0.8] * (CHAINS - 1)])
    assert float(summary(tree(draws, acceptance=rates))["acceptance_rate"][0]) == pytest.approx(0.8)
    assert np.isnan(summary(tree(draws))["acceptance_rate"]).all()


def test_what_a_correction_leaves_is_common_to_neighbours():
    """It is part of every standard error and of that of the mean over runs, and cancels in a change where neighbours have as much of it."""
    draws = ar1(4).reshape(2, 2, CHAINS, DRAWS)
    plain, doubtful = (of_runs(draws, bias_error=size) for size in (0.0, 0.7))
    before, after = summary(plain), summary(doubtful)
    np.testing.assert_allclose(after["std_error"], np.hypot(before["std_error"], 0.7), rtol=1e-6)
    np.testing.assert_array_equal(after["change_error"], before["change_error"])
    np.testing.assert_allclose(averaged(doubtful)["std_error"], np.hypot(averaged(plain)["std_error"], 0.7), rtol=1e-6)
