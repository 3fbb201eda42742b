"""Error bars on chains whose error is known, and each finding on a result that has it and on one that has not."""

import numpy as np
import pytest

from jaxllc import diagnostics, results
from jaxllc.engine import Trace

CHAINS, DRAWS = 8, 1000


def ar1(count, rho=0.9, mean=10.0, seed=0):
    """Chains with unit innovations: stationary variance 1/(1 − ρ²), integrated autocorrelation time (1 + ρ)/(1 − ρ)."""
    rng = np.random.default_rng(seed)
    x = np.empty((count, CHAINS, DRAWS))
    x[..., 0] = rng.normal(size=(count, CHAINS)) / np.sqrt(1 - rho**2)
    for t in range(1, DRAWS):
        x[..., t] = rho * x[..., t - 1] + rng.normal(size=(count, CHAINS))
    return x + mean


def tree(llc, gaussian=100.0, loss=2.0, step_bias=0.1, **attributes):
    llc = np.asarray(llc, np.float32)
    trace = Trace(
        llc + np.float32(step_bias),
        np.full_like(llc, loss),
        np.full_like(llc, step_bias),
        np.full(len(llc), loss),
        np.full(llc.shape[:2], gaussian) + np.linspace(-1, 1, llc.shape[1]),
    )
    coords = results.coordinates(list(range(len(llc))), *llc.shape[1:])
    return results.to_tree(results.arrays(trace, 1.0), coords, {"nbeta": 1.0, **attributes})


def codes(*arguments, **options):
    return [finding.code for finding in diagnostics.findings(tree(*arguments, **options))[0]]


def test_standard_errors_cover():
    """Of 200 estimates of a known mean, the share within two standard errors is 95.4 %, to three binomial errors (1.5 % each)."""
    draws = ar1(200)
    table = diagnostics.summary(tree(draws))
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
    table = diagnostics.summary(tree(draws))
    z = (table["llc"].values - 10) / table["std_error"].values
    assert 0.89 < np.mean(np.abs(z) < 2) < 0.98


def test_changes_are_paired():
    """Two checkpoints whose chains share their noise: the error of the change is that of the difference alone."""
    common = ar1(1)[0]
    table = diagnostics.summary(tree([common, common + 0.5 + 0.01 * ar1(1, seed=1, mean=0)[0]]))
    assert table["change"].values[1] == pytest.approx(0.5, abs=4 * table["change_error"].values[1])
    assert table["change_error"].values[1] < 0.03 * table["std_error"].values[1]
    assert np.isnan(table["change"].values[0])


def of_runs(draws, **attributes):
    """A result of several runs: draws `[run, step, chain, draw]`."""
    flat = tree(draws.reshape(-1, *draws.shape[2:]), **attributes)
    coords = results.coordinates(list(range(draws.shape[1])), *draws.shape[2:], [f"seed {i}" for i in range(len(draws))])
    found = {(v.group, v.name): flat[f"{v.group}/{v.name}"].values for v in results.VARIABLES}
    return results.to_tree(found, coords, flat.attrs)


def test_runs_are_judged_one_by_one():
    draws = ar1(6).reshape(2, 3, CHAINS, DRAWS)
    draws[1, 0, 2, 3] = np.nan
    draws[0, 1] += 5
    both = diagnostics.summary(of_runs(draws))
    for run in (0, 1):
        alone = diagnostics.summary(tree(draws[run]))
        for name, column in alone.items():
            np.testing.assert_array_equal(both[name].isel(run=run), column, err_msg=name)
    found = diagnostics.findings(of_runs(draws))
    assert found == diagnostics.findings(tree(draws[0])) + diagnostics.findings(tree(draws[1]))
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
    table = diagnostics.over_runs(of_runs(draws))
    exact = 0.02**2 / runs + (0.9**2 + 0.3**2 / runs) / (chains * num)
    squares = table["std_error"].values ** 2
    assert -0.02 < squares.mean() / exact - 1 < 1 / 3
    assert np.mean((table["llc"].values - 10) ** 2 < 4 * squares) > 0.954 - 3 * np.sqrt(0.954 * 0.046 / size)
    np.testing.assert_allclose(table["llc"], draws.mean((0, 2, 3)), rtol=1e-6)


def test_a_run_without_a_finite_chain_is_left_out_of_the_mean():
    draws = ar1(6).reshape(3, 2, CHAINS, DRAWS)
    draws[1, 0] = np.nan
    table = diagnostics.over_runs(of_runs(draws))
    without = diagnostics.over_runs(of_runs(draws[[0, 2]]))
    for name in ("llc", "std_error"):
        assert table[name].values[0] == pytest.approx(without[name].values[0])
    assert np.isnan(diagnostics.over_runs(of_runs(draws[:1]))["std_error"]).all()


def test_mean_loss_and_loss():
    table = diagnostics.summary(tree(ar1(1)))
    assert table["loss"].values[0] == 2
    assert table["mean_loss"].values[0] == pytest.approx(2 + table["llc"].values[0])


def test_a_good_run_has_no_findings():
    assert codes(ar1(1), reference_loss=50.0) == []


def test_diverged_chains_are_counted_and_masked():
    draws = ar1(1)
    whole = diagnostics.summary(tree(draws[:, 2:]))
    draws[0, 0, 500:] = np.nan
    draws[0, 1, 999] = np.inf
    found = diagnostics.findings(tree(draws))[0]
    assert [finding.code for finding in found] == ["diverged"]
    assert "2 of 8" in found[0].message
    masked = diagnostics.summary(tree(draws))
    assert masked["num_diverged"].values[0] == 2
    for name in ("llc", "std_error", "rhat", "ess"):
        assert masked[name].values[0] == pytest.approx(whole[name].values[0])


def test_when_all_chains_diverge_the_value_is_nan():
    draws = np.full((2, CHAINS, DRAWS), np.nan)
    draws[1] = ar1(1)[0]
    table = diagnostics.summary(tree(draws))
    assert np.isnan(table["llc"].values[0])
    assert np.isfinite(table["llc"].values[1])
    assert codes(draws) == ["diverged"]


def test_chains_that_disagree():
    assert codes(ar1(1) + 4 * np.arange(CHAINS)[:, None]) == ["rhat", "ess"]


def refused(draws, share, seed=0):
    """The draws of chains of which a share of the steps is refused at random."""
    kept = np.random.default_rng(seed).random(draws.shape) >= share
    kept[..., 0] = True
    return np.take_along_axis(draws, np.maximum.accumulate(np.where(kept, np.arange(draws.shape[-1]), 0), -1), -1)


def test_chains_that_do_not_move():
    draws = ar1(1, rho=0)
    assert "stuck" in codes(np.zeros_like(draws))
    one = draws.copy()
    one[0, 3] = one[0, 3, 0]
    stuck = diagnostics.findings(tree(one))[0][0]
    assert stuck.code == "stuck"
    assert "1 of 8 chains hardly move" in stuck.message


def test_a_low_acceptance_is_no_finding():
    """Of four steps in five refused the effective draws tell; of 95 % refused it is said."""
    draws = ar1(1, rho=0)
    assert codes(refused(draws, 0.8)) == []
    assert "stuck" in codes(refused(draws, 0.95))


def test_a_step_that_is_too_large():
    assert codes(ar1(1), step_bias=3.0) == ["step-size"]
    assert codes(ar1(1), step_bias=2.0) == []


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_chain_that_broke_in_the_middle_has_no_part_in_the_drift(bad):
    draws = ar1(1) + np.linspace(0, 1, DRAWS)
    whole = diagnostics.summary(tree(draws[:, 1:]))
    draws[0, 0, 500] = bad
    for name in ("drift", "drift_error", "step_bias"):
        assert diagnostics.summary(tree(draws))[name].values[0] == pytest.approx(whole[name].values[0])


def test_a_noisy_control_tells_nothing():
    draws = tree(ar1(1, mean=300))
    draws["constant_data/gaussian_llc"][:] = np.array([250.0, 900, 700, 400, 2000, 600, 300, 250])
    assert diagnostics.findings(draws) == [()]


def test_few_effective_draws():
    assert "ess" in codes(ar1(1, rho=0.9)[..., :100])


def test_drift():
    assert codes(ar1(1, mean=30) + np.linspace(0, 8, DRAWS)) == ["rhat", "drifting"] or "drifting" in codes(ar1(1, mean=30) + np.linspace(0, 8, DRAWS))
    assert "drifting" not in codes(ar1(1, mean=30) + np.linspace(0, 0.5, DRAWS))


def test_below_the_center():
    assert codes(ar1(1, mean=-10)) == ["below-center"]


def test_an_uninformed_reference():
    assert codes(ar1(1), reference_loss=11.0) == ["uninformed"]
    assert codes(ar1(1), reference_loss=14.0) == []


def test_localization_only():
    assert codes(ar1(1), gaussian=10.1) == ["localization-only"]
    assert codes(ar1(1), gaussian=np.nan) == []


def test_one_chain_has_no_rhat_and_no_error_from_spread():
    table = diagnostics.summary(tree(ar1(1)[:, :1]))
    assert np.isnan(table["rhat"].values[0])
    assert table["std_error"].values[0] > 0
    assert codes(ar1(1)[:, :1]) == ["ess"]


def ladder(first, second):
    """Of one checkpoint with these draws of its two rungs."""
    made = tree((2 * first - second)[None], extrapolate="nbeta")
    made["sample_stats"] = made["sample_stats"].to_dataset().assign(twice_nbeta_llc=(("step", "chain", "draw"), second[None]))
    return made


def test_a_rung_that_does_not_move_is_stuck():
    """The other one moves, and so does what is made of both. Seen to fail where the combination alone was looked at."""
    moving = ar1(1)[0]
    assert "stuck" not in [finding.code for finding in diagnostics.findings(ladder(moving, ar1(1, seed=1)[0]))[0]]
    assert "stuck" in [finding.code for finding in diagnostics.findings(ladder(moving, np.zeros_like(moving)))[0]]


def test_a_ladder_tells_of_lower_loss_than_at_the_center():
    """By its first rung: at a saddle both lie far below, and their slope does not. Seen to fail where the slope was looked at."""
    first = ar1(1)[0] - 60
    assert [finding.code for finding in diagnostics.findings(ladder(first, 2 * first - ar1(1, seed=2, mean=2)[0]))[0]] == ["below-center"]
    rising = [finding.code for finding in diagnostics.findings(ladder(ar1(1)[0], ar1(1, seed=1)[0] + 40))[0]]
    assert rising == ["drifting"]


def test_chains_that_broke_on_one_rung_are_left_out_of_both():
    first, second = ar1(1)[0], ar1(1, seed=1)[0]
    broken = second.copy()
    first_broken = first.copy()
    first_broken[0], broken[0] = np.nan, broken[0] + 50
    table, kept = (diagnostics.summary(ladder(*rungs)) for rungs in ((first_broken, broken), (first[1:], second[1:])))
    for name in ("llc", "llc_at_nbeta", "mean_loss", "rhat", "ess"):
        assert table[name].values[0] == pytest.approx(kept[name].values[0])
    assert table["num_diverged"].values[0] == 1
