"""The nets of the accuracy benchmark have the coefficients that they are labelled with, and the reference samples the same posterior."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxllc
from benchmarks import accuracy, gibbs
from benchmarks import deep_linear_nets as nets
from jaxllc.theory import deep_linear_bounds, deep_linear_llc


@pytest.mark.parametrize("widths", nets.CLASSES["1K"], ids=str)
def test_bounds_of_certified_nets_meet_the_label(widths):
    made = nets.make(widths, 6, 10)
    np.testing.assert_array_equal(made.lower, made.llc)
    np.testing.assert_array_equal(made.upper, made.llc)


def test_bounds_where_the_answer_is_known():
    """Full rank, where the fibre is smooth; and A = 0, B = 1 in two by two matrices, whose local coefficient 2 lies above the global 1.5 (its loss is |A|²)."""
    assert deep_linear_bounds((5, 7, 9), [[5, 5], [7]]) == (22.5, 22.5)
    assert deep_linear_bounds((2, 2, 2), [[0, 0], [2]]) == (2.0, 2.0)
    assert deep_linear_llc((2, 2, 2), 0).value == 1.5
    assert deep_linear_bounds((2, 2, 2), [[1, 0], [1]]) == (1.5, 1.5)
    with pytest.raises(ValueError, match="ranks must have 2 rows"):
        deep_linear_bounds((2, 2, 2), [[0, 0]])


def test_labels_of_the_published_recipe_lie_below_local_values_at_times():
    made = nets.make((8, 9, 10, 11), 40, 10, certified=False)
    assert (made.lower <= made.upper + 1e-9).all()
    assert (made.llc <= made.lower + 1e-9).all()
    assert 0.05 < np.mean(made.llc < made.lower - 1e-9) < 0.6


def test_second_moments_hold_all_that_the_mean_loss_knows():
    made = nets.make((6, 8, 5), 2, 500)
    data = tuple(map(jnp.asarray, made.arrays))
    moments = nets.moments(made.arrays)
    center = made.centers[2]
    moved = center | {"layers": [layer + np.float32(0.1) for layer in center["layers"]]}
    direct = nets.loss(moved, data).mean() - nets.loss(center, data).mean()
    off = np.linalg.multi_dot(moved["layers"]) - center["product"]
    np.testing.assert_allclose(np.sum((moments["inputs"] @ off / 2 - moments["cross"] * center["signs"]) * off), direct, rtol=1e-4)


def test_errors_and_order_of_made_up_numbers():
    truth, own = np.array([10.0, 20.0, 30.0, 30.0]), np.array([9.0, 18.0, 27.0, 27.0])
    found = np.array([9.9, 21.0, 18.0, 27.0])
    result = accuracy.errors(found, truth, own)
    assert result["order_preserved"] == pytest.approx(4 / 5)  # of five pairs that differ, (20, 30) once the wrong way
    assert result["median_error_to_llc"] == pytest.approx(np.median([0.01, 0.05, 0.4, 0.1]))
    assert result["median_error_to_posterior"] == pytest.approx(np.median([0.1, 3 / 18, 9 / 27, 0.0]))


@pytest.mark.parametrize(("widths", "n", "net"), [((9, 12, 10), 20_000, 1), ((9, 12, 10), 2_000, 2), ((8, 8, 8, 8, 8, 8), 5_000, 2)], ids=str)
def test_the_best_setting_is_an_estimate_of_a_new_net(widths, n, net):
    """Shapes that are not among those of the benchmark, of full rank and below it: within 10 % of λ and 4 standard errors of the posteriors' own slope."""
    made = nets.make(widths, 2, n, seed=7)
    setting = accuracy.best_setting(widths, n) | {"num_burn_in": 1500, "num_draws": 1500}
    est = jaxllc.estimate(nets.loss, made.centers[net], made.arrays, key=jax.random.key(3), free=accuracy.FREE, progress=False, **setting)
    assert est.llc == pytest.approx(made.llc[net - 1], rel=0.1)
    own = gibbs.values(made, {setting["nbeta"]: 2.0, 2 * setting["nbeta"]: -1.0}, setting["localization"], 1000)
    assert abs(est.llc - own["llc"][net - 1]) < 4 * np.hypot(est.std_error, own["std_error"][net - 1])
    assert {finding.code for finding in est.findings} <= {"not-mixed"}  # the symmetries of these nets spread for longer than chains last, and change nothing
