"""Calibration: settings that were not set by hand give the exact coefficient, or it is said why they cannot."""

import sys

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
from test_adaptive_hmc import linear_regression, squared_error

import jaxllc
from jaxllc.calibrate import is_checkpoints
from jaxllc.theory import quadratic_llc

mpl.use("agg")
COLUMN = np.array([30.0, 1, 1, 1, 1, 1])


def exact(curvatures, n=500, localization=1.0):
    return quadratic_llc(curvatures, jaxllc.default_nbeta(n), localization)


def test_estimate_without_settings():
    """One large column: SGLD's default step had given a quarter of it, without a finding."""
    weights, data, curvatures = linear_regression(COLUMN)
    est = jaxllc.estimate(squared_error, weights, data, key=jax.random.key(1), progress=False)
    assert abs(est.llc - exact(curvatures)) < 4 * est.std_error
    assert est.std_error < 0.04 * exact(curvatures)
    assert not est.findings
    assert isinstance(est.settings.sampler, jaxllc.AdaptiveHMC)
    assert est.data.attrs["calibration"]["serves"]
    again = jaxllc.estimate(squared_error, weights, data, est.settings, key=jax.random.key(1), progress=False)
    assert again.llc == est.llc


def test_what_is_given_is_kept():
    weights, data, curvatures = linear_regression(COLUMN)
    given = dict(nbeta=50.0, localization=3.0, num_chains=4)
    est = jaxllc.estimate(squared_error, weights, data, key=jax.random.key(0), progress=False, **given)
    assert {name: getattr(est.settings, name) for name in given} == given
    assert abs(est.llc - quadratic_llc(curvatures, 50.0, 3.0)) < 4 * est.std_error


def test_settings_of_ones_own_are_not_calibrated():
    weights, data, _ = linear_regression(COLUMN)
    est = jaxllc.estimate(squared_error, weights, data, key=jax.random.key(0), progress=False, num_draws=50, num_burn_in=10)
    assert "calibration" not in est.data.attrs
    assert isinstance(est.settings.sampler, jaxllc.SGLD)


def test_a_small_budget_raises_the_localization_and_says_so():
    """SGLD on minibatches, whose coefficient is that of the stronger localization."""
    weights, data, curvatures = linear_regression(np.array([3.0, 1, 1]), n=3000)
    calibration = jaxllc.calibrate(squared_error, weights, data, key=jax.random.key(0), budget=0.02)
    settings = calibration.settings
    assert isinstance(settings.sampler, jaxllc.SGLD)
    assert settings.localization > 1
    assert 2 / (settings.sampler.step_size * settings.localization) < settings.num_burn_in / 2
    assert any("For that the localization is" in reason for reason in calibration.reasons)
    est = jaxllc.estimate(squared_error, weights, data, settings, key=jax.random.key(1), progress=False)
    assert abs(est.llc - exact(curvatures, 3000, settings.localization)) < 4 * est.std_error


def test_chains_of_sgld_are_as_long_as_the_target_error_asks():
    """Data are streamed, so that SGLD is all there is; the localization lets it forget its start in some sixty iterations."""
    weights, data, curvatures = linear_regression(np.array([3.0, 1, 1]), n=3000)
    stream = jaxllc.Stream.of(data, batch_size=64)
    asked = {
        error: jaxllc.calibrate(squared_error, weights, stream, key=jax.random.key(0), budget=60, localization=500.0, target_error=error)
        for error in (0.1, 0.02, 1e-4)
    }
    lengths = [calibration.settings.num_iterations for calibration in asked.values()]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[2] / 4, lengths
    assert any("a standard error of 2.0%" in reason for reason in asked[0.02].reasons)
    assert not any("a standard error of" in reason for reason in asked[1e-4].reasons)
    assert asked[0.02].cost < 60
    est = jaxllc.estimate(squared_error, weights, stream, asked[0.02].settings, key=jax.random.key(1), progress=False)
    assert abs(est.llc - exact(curvatures, 3000, 500.0)) < 4 * est.std_error
    assert est.std_error < 2 * 0.02 * est.llc


@pytest.fixture
def dear(monkeypatch):
    """As if a gradient of all data were dear."""
    monkeypatch.setattr("jaxllc.candidate_sgld.FORESEEN_GRADIENTS", 1e7)
    monkeypatch.setattr("jaxllc.candidate_sgld.LEAST_WORTH", 1.0)


def chosen(loss_fn, weights, data, **options):
    calibration = jaxllc.calibrate(loss_fn, weights, data, key=jax.random.key(0), **{"budget": 6.0, "localization": 500.0} | options)
    return type(calibration.settings.sampler).__name__, calibration


MILD = np.array([3.0, 1, 1])


@pytest.mark.usefixtures("dear")
def test_sgld_stands_in_where_it_mixes_much_sooner():
    """At the localization asked for, though chains on all data would be affordable."""
    weights, data, curvatures = linear_regression(MILD, n=3000)
    name, calibration = chosen(squared_error, weights, data)
    assert name == "SGLD"
    assert calibration.serves
    assert "Hamiltonian Monte Carlo on all data would take" in calibration.reasons[0]
    est = jaxllc.estimate(squared_error, weights, data, calibration.settings, key=jax.random.key(1), progress=False)
    assert abs(est.llc - exact(curvatures, 3000, 500.0)) < 4 * est.std_error
    assert est.std_error < 0.03 * est.llc
    assert not est.findings


def mean_of_batch(weights, batch):
    return squared_error(weights, batch).mean()


def of_neighbours(weights, batch):
    """Depends on the other examples of the batch."""
    losses = squared_error(weights, batch)
    return losses + 0.1 * (losses - losses.mean()) ** 2


@pytest.mark.usefixtures("dear")
@pytest.mark.parametrize(
    ("loss_fn", "columns", "options"),
    [
        (squared_error, MILD, {"localization": None}),  # a weak prior
        (squared_error, np.array([100.0, 1, 1]), {}),  # a small step
        (squared_error, MILD, {"target_error": 1e-3}),  # a step bias that would be too large
        (mean_of_batch, MILD, {}),
        (of_neighbours, MILD, {}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_sgld_does_not_stand_in_elsewhere(loss_fn, columns, options):
    weights, data, _ = linear_regression(columns, n=3000)
    assert chosen(loss_fn, weights, data, **options)[0] == "AdaptiveHMC"


@pytest.mark.usefixtures("dear")
def test_a_bias_at_one_checkpoint_is_seen(monkeypatch):
    """The coefficient of another one, much larger, does not hide it."""
    weights, data, _ = linear_regression(MILD, n=3000)
    run_pilot = sys.modules["jaxllc.candidate_sgld"].run_pilot

    def unequal(plan, centers, **points):
        pilot, large = run_pilot(plan, centers, **points), np.arange(len(centers)) % 3 == 0
        return pilot._replace(llc=np.where(large, 100.0, 1.5), step_bias=np.where(large, 0.5, 0.45), std_error=np.full(len(centers), 0.01))

    run = dict.fromkeys((0, 1, 2), weights)
    assert chosen(squared_error, run, data)[0] == "SGLD"
    monkeypatch.setattr("jaxllc.candidate_sgld.run_pilot", unequal)
    assert chosen(squared_error, run, data)[0] == "AdaptiveHMC"


@pytest.mark.usefixtures("dear")
def test_a_loss_that_is_not_finite_is_told_of_as_ever():
    weights, data, _ = linear_regression(MILD, n=3000)
    with pytest.raises(ValueError, match="not finite"):
        chosen(lambda w, batch: squared_error(w, batch) + jnp.inf, weights, data)


def test_two_chains_of_sgld_draw_for_longer():
    """All chains together have the effective draws that R-hat needs."""
    weights, data, _ = linear_regression(MILD, n=3000)
    stream = jaxllc.Stream.of(data, batch_size=64)
    lengths = [chosen(squared_error, weights, stream, num_chains=chains, target_error=0.5)[1].settings.num_iterations for chains in (2, 8)]
    assert lengths[0] > 3 * lengths[1]


def test_a_localization_that_no_budget_mixes_is_said_not_to_serve():
    weights, data, _ = linear_regression(COLUMN, n=3000)
    calibration = jaxllc.calibrate(squared_error, weights, data, key=jax.random.key(0), budget=0.02, localization=1.0)
    assert not calibration.serves
    assert calibration.settings.localization == 1.0
    assert any("do not suffice" in reason for reason in calibration.reasons)


def test_one_setting_serves_all_checkpoints():
    """Of a run the first, the last and a middle one are looked at; the trajectory resumes with what was found."""
    weights, data, curvatures = linear_regression(COLUMN)
    run = {step: weights + 1e-4 / (1 + step) for step in range(4)}
    calibration = jaxllc.calibrate(squared_error, run, data, key=jax.random.key(0), budget=5.0)
    assert sorted(calibration.table()["checkpoint"]) == ["step 0", "step 2", "step 3"]
    assert abs(calibration.table()["llc"].mean() - exact(curvatures)) < 1


def test_trajectory_without_settings_resumes_with_what_it_found(tmp_path):
    weights, data, curvatures = linear_regression(COLUMN)
    run = dict.fromkeys((0, 10), weights)
    options = dict(key=jax.random.key(0), progress=False, store=tmp_path / "llc.zarr")
    first = jaxllc.trajectory(squared_error, run, data, **options)
    grown = jaxllc.trajectory(squared_error, {**run, 20: weights}, data, **options)
    assert grown.settings == first.settings
    assert grown.data.attrs["calibration"] == first.data.attrs["calibration"]
    np.testing.assert_allclose(grown.table()["llc"][:2], first.table()["llc"])
    assert (abs(grown.table()["llc"] - exact(curvatures)) < 4 * grown.table()["std_error"]).all()


def test_longer_chains_where_the_first_did_not_mix(monkeypatch):
    """A pilot that was misled, here by a budget of draws: the estimate is made again, four times as long."""
    monkeypatch.setattr("jaxllc.candidate_hmc.EFFECTIVE_DRAWS", 8.0)
    monkeypatch.setattr("jaxllc.candidate_hmc.LEAST_ITERATIONS", 32)
    weights, data, _ = linear_regression(COLUMN)
    request = dict(key=jax.random.key(0), progress=False, num_chains=2, probes={"square": jaxllc.Probe(lambda w: (w**2).sum(), every=16)})
    monkeypatch.setattr("jaxllc.candidate_hmc.lengthening", lambda *_: 0.0)
    monkeypatch.setattr(sys.modules["jaxllc.estimate"], "LENGTHENING", 10**9)
    short = jaxllc.estimate(squared_error, weights, data, **request)
    assert {finding.code for finding in short.findings} & {"not-mixed", "few-effective-draws"}
    monkeypatch.setattr(sys.modules["jaxllc.estimate"], "LENGTHENING", 4)
    est = jaxllc.estimate(squared_error, weights, data, **request)
    assert est.settings.num_draws >= 4 * short.settings.num_draws
    assert est.ess > 2 * short.ess
    assert est.data["along_chains/square"].sizes["evaluation"] > 2 * short.data["along_chains/square"].sizes["evaluation"]


@pytest.mark.parametrize("budget", [60.0, 0.02])
def test_maps_have_the_choice_in_the_middle(budget):
    """Of each candidate; λ̂ falls with the localization."""
    weights, data, _ = linear_regression(np.array([3.0, 1, 1]), n=3000)
    calibration = jaxllc.calibrate(squared_error, weights, data, key=jax.random.key(0), budget=budget, maps=True)
    table = calibration.table().query("checkpoint == 'map'")
    middle = table[np.isclose(table.nbeta, calibration.settings.nbeta)]
    middle = middle[np.isclose(middle.step_size, calibration.settings.sampler.step_size)] if "step_size" in middle else middle
    assert len(middle) == 3
    assert middle.sort_values("localization").llc.is_monotonic_decreasing
    axes = calibration.plot()
    assert [axis.get_xlabel() for axis in axes] == (["localization γ"] if budget > 1 else ["localization γ", "inverse temperature nβ"])
    mpl.pyplot.close("all")


def test_maps_that_were_not_run_are_asked_for():
    weights, data, _ = linear_regression(COLUMN)
    with pytest.raises(ValueError, match="pass maps=True"):
        jaxllc.calibrate(squared_error, weights, data, key=jax.random.key(0)).plot()


@pytest.mark.parametrize("wrong", [dict(budget=0.0), dict(target_error=-1.0), dict(budget=float("nan"))])
def test_numbers_out_of_range(wrong):
    weights, data, _ = linear_regression(COLUMN)
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be above 0"):
        jaxllc.calibrate(squared_error, weights, data, key=jax.random.key(0), **wrong)


def test_weights_and_checkpoints_are_told_apart():
    array = jnp.zeros(2)
    assert is_checkpoints({0: array, 10: array})
    assert is_checkpoints({"seed-1": {0: array}})
    assert not is_checkpoints({"layer": {"kernel": array}})
    assert not is_checkpoints(array)
    assert not is_checkpoints({})


def test_weights_that_are_not_finite_are_named():
    weights, data, _ = linear_regression(COLUMN)
    with pytest.raises(ValueError, match="these weights are not finite: w"):
        jaxllc.estimate(lambda p, b: squared_error(p["w"], b), {"w": weights.at[0].set(jnp.nan)}, data, key=jax.random.key(0), progress=False)


def test_a_loss_of_means_alone_is_calibrated():
    weights, data, curvatures = linear_regression(COLUMN)
    est = jaxllc.estimate(lambda w, b: squared_error(w, b).mean(), weights, data, key=jax.random.key(2), progress=False)
    assert abs(est.llc - exact(curvatures)) < 4 * est.std_error


def test_no_localization_on_a_small_budget_does_not_serve():
    weights, data, _ = linear_regression(np.array([3.0, 1, 1]), n=3000)
    calibration = jaxllc.calibrate(squared_error, weights, data, key=jax.random.key(0), budget=0.02, localization=0.0)
    assert calibration.settings.localization == 0
    assert not calibration.serves


def test_chains_are_long_enough_for_their_probes():
    weights, data, _ = linear_regression(COLUMN)
    options = dict(key=jax.random.key(0), progress=False, probes={"square": jaxllc.Probe(lambda w: (w**2).sum(), every=1000)})
    est = jaxllc.estimate(squared_error, weights, data, **options)
    assert est.data["along_chains/square"].sizes["evaluation"] >= 1
    traj = jaxllc.trajectory(squared_error, {0: weights}, data, **options)
    assert traj.data["along_chains/square"].sizes["evaluation"] >= 1


@pytest.mark.parametrize("budget", [60.0, 0.02], ids=["all data", "minibatches"])
@pytest.mark.parametrize(("localization", "leaves"), [(0.01, True), (10.0, False)])
def test_a_posterior_that_is_not_local_is_told(localization, leaves, budget):
    """Of a least-squares problem with a weak prior at a small nβ: its mean loss is above that of weights that are all zero."""
    weights, data, _ = linear_regression(np.array([1.0, 1, 1]), n=3000)
    calibration = jaxllc.calibrate(squared_error, weights, data, key=jax.random.key(0), budget=budget, nbeta=0.02, localization=localization)
    assert any("know no more than weights that are all zero" in reason for reason in calibration.reasons) == leaves
