"""Each finding on a result that has it and on one that has not."""

import re

import numpy as np
import pytest
from made_results import CHAINS, DRAWS, ar1, codes, findings, made_every, tree, two_temperatures

from jaxllc import estimator
from jaxllc.mixing import lacking


def test_a_good_run_has_no_findings():
    assert codes(ar1(1), attributes={"reference_loss": 50.0}) == []


def test_chains_that_disagree():
    """Names the relaxation time and how much more would do."""
    found = findings(tree(ar1(1) + 4 * np.arange(CHAINS)[:, None]))[0]
    assert [finding.code for finding in found] == ["not-mixed", "few-effective-draws"]
    assert "chains disagree; relaxation time about" in found[0].message
    assert "the chains have 1000: use" in found[0].message


def test_chains_that_disagree_beneath_loud_noise():
    """Offsets of a fifth of the noise of a draw: R-hat of draws is 1.02, that of means over 20 draws 1.4; with a third of these offsets nothing is told."""
    loud = 30 + 5 * ar1(1, rho=0, mean=0)
    offsets = np.linspace(-1, 1, CHAINS)[:, None]
    table = estimator.summary(tree(loud + 1.5 * offsets))
    assert table["llc_rhat"].values[0] < 1.05 < 1.1 < table["slow_rhat"].values[0]
    assert "not-mixed" in codes(loud + 1.5 * offsets)
    assert codes(loud + 0.5 * offsets) == []


def evaluations(seed=0):
    return np.random.default_rng(seed).normal(size=(CHAINS, len(range(0, DRAWS, made_every(DRAWS)))))


def test_chains_that_disagree_about_one_batch():
    """Or whose loss of it is remembered over many evaluations."""
    apart = evaluations() + np.linspace(-1.5, 1.5, CHAINS)[:, None]
    assert "not-mixed" in codes(ar1(1), probe=apart)
    assert codes(ar1(1), probe=evaluations()) == []


SPREADING = {"relaxation_time": 1e5, "num_weights": 40}


def spread(time, free, drawn=True):
    """Squared distances of chains with so many directions that nothing but the prior holds, 1/γ = 1 wide: the law of an Ornstein-Uhlenbeck process."""
    rng, every = np.random.default_rng(3), made_every(DRAWS)
    w = np.zeros((CHAINS, free))
    distances = []
    for _ in range(0, DRAWS, every):
        distances.append((w**2).sum(-1))
        decay = np.exp(-every / time)
        w = decay * w + np.sqrt(1 - decay**2) * rng.normal(size=w.shape)
    return np.stack(distances, -1)


def test_directions_that_still_spread():
    """Twenty that may add nearly 10 to 10; of one they may add less than a tenth, and after ten relaxation times they add nothing."""
    table = estimator.summary(tree(ar1(1), distance=spread(1e5, 20), attributes=SPREADING))
    assert table["free_directions"].values[0] == pytest.approx(20, rel=0.15)
    assert 7 < table["unmixed_llc"].values[0] < 10
    assert table["relaxation"].values[0] == 1e5
    (found,) = findings(tree(ar1(1), distance=spread(1e5, 20), attributes=SPREADING))[0]
    assert found.code == "not-mixed"
    assert "relaxation time about 100000 iterations, the chains have 1000: use" in found.message
    assert codes(ar1(1), distance=spread(1e5, 1), attributes=SPREADING) == []
    assert codes(ar1(1), distance=spread(100, 20), attributes=SPREADING | {"relaxation_time": 100.0}) == []


def test_the_amount_that_is_named_would_do():
    """Chains so many times as long, or at so much stronger a localization, have nothing more to tell of."""
    (found,) = findings(tree(ar1(1), distance=spread(1e5, 20), attributes=SPREADING))[0]
    times, localization = (float(re.search(rf"{words}([\d ]+)", found.message)[1].replace(" ", "")) for words in ("use ", "localization="))
    assert times == pytest.approx(localization, rel=0.02)
    assert codes(ar1(1), distance=spread(1e5 / times, 20), attributes=SPREADING | {"relaxation_time": 1e5 / times}) in ([], ["localization-sensitive"])
    assert codes(ar1(1), distance=spread(2e5 / times, 20), attributes=SPREADING | {"relaxation_time": 2e5 / times}) == ["not-mixed"]


def test_chains_that_began_elsewhere_do_not_tell_how_far_they_spread():
    """By chains that began at w* alone is it told how many directions spread."""
    away = spread(1e5, 20)
    away[::2] += 20
    together = estimator.summary(tree(ar1(1), distance=away, attributes=SPREADING))
    assert together["free_directions"].values[0] == pytest.approx(20, rel=0.25)


def test_without_a_relaxation_time_equipartition_tells():
    """Chains whose distances disagree, and whose prior and loss have a tenth of what 400 weights have in equilibrium; not those whose distances agree.

    Nor where the loss does not follow the distance, as along a symmetry.
    """
    apart = 20 + np.linspace(-2, 2, CHAINS)[:, None] + 0.1 * evaluations()
    follows = dict(distance=apart, probe=1e-3 * apart + evaluations(3))
    assert codes(ar1(1), **follows, attributes={"num_weights": 41}) == []
    follows["probe"] = apart + evaluations(3)
    assert "not-mixed" in codes(ar1(1), **follows, attributes={"num_weights": 400})
    assert codes(ar1(1), distance=apart, attributes={"num_weights": 400}) == []
    assert codes(ar1(1), distance=20 + evaluations(), probe=20 + evaluations(), attributes={"num_weights": 400}) == []


def test_what_a_direction_lacks_is_the_most_over_curvatures():
    ratios = np.geomspace(1e-4, 1e4, 20_000)
    for passed in (1e-3, 0.03, 0.5, 1.0, 3.0, 20.0):
        assert lacking(passed) == pytest.approx((ratios / (1 + ratios) * np.exp(-passed * (1 + ratios))).max(), rel=1e-5)


def test_a_coefficient_that_follows_the_localization():
    """Losses that go with the distance: the slope is minus half their covariance, told above half of λ̂ for a factor of two; not of losses that do not."""
    off = 4 * evaluations(5)
    made = tree(ar1(1), distance=50 + off, probe=1.5 * off)
    slope = float(estimator.summary(made)["localization_slope"].values[0])
    assert slope == pytest.approx(-1.5 * 16 / 2, rel=0.15)
    (found,) = findings(made)[0]
    assert found.code == "localization-sensitive"
    llc = float(estimator.summary(made)["llc"].values[0])
    assert f"about {llc - slope * np.log(2):.3g} at localization=0.5 and {llc + slope * np.log(2):.3g} at 2" in found.message
    assert codes(ar1(1), distance=50 + off, probe=0.5 * off) == []
    assert codes(ar1(1), distance=50 + off, probe=6 * evaluations(6)) == []


def refused(draws, share, seed=0):
    """The draws of chains of which a share of the steps is refused at random."""
    kept = np.random.default_rng(seed).random(draws.shape) >= share
    kept[..., 0] = True
    return np.take_along_axis(draws, np.maximum.accumulate(np.where(kept, np.arange(draws.shape[-1]), 0), -1), -1)


def test_chains_that_do_not_move():
    draws = ar1(1, rho=0)
    assert "stuck" in codes(np.zeros_like(draws), moved=0.0)
    one = draws.copy()
    one[0, 3] = one[0, 3, 0]
    stuck = findings(tree(one, moved=0.0))[0][0]
    assert stuck.code == "stuck"
    assert "1 of 8 chains hardly move" in stuck.message


def test_chains_that_move_where_the_loss_does_not_are_not_stuck():
    """A dead ReLU: the loss is the same everywhere, and the weights are elsewhere."""
    assert "stuck" not in codes(np.zeros((1, CHAINS, DRAWS)), moved=1.0)


def test_of_proposals_that_are_refused_the_rate_is_told_and_nearly_none_accepted_is_stuck():
    """At half of them the draws are right but may miss narrow places; at one in twenty the error bar means nothing."""
    draws = ar1(1, rho=0)
    assert codes(refused(draws, 0.4), acceptance=0.6) == []
    low = findings(tree(refused(draws, 0.5), acceptance=0.5))[0]
    assert [finding.code for finding in low] == ["acceptance"]
    assert "only 50% of the proposals are accepted" in low[0].message
    assert codes(refused(draws, 0.8), acceptance=0.2) == ["acceptance"]
    assert codes(refused(draws, 0.95), acceptance=0.05)[:2] == ["stuck", "acceptance"]


def test_a_step_that_is_too_large():
    assert codes(ar1(1), step_bias=3.0) == ["step-size"]
    assert codes(ar1(1), step_bias=2.0) == []


def test_a_noisy_control_tells_nothing():
    draws = tree(ar1(1, mean=300))
    draws["constant_data/gaussian_llc"][:] = np.array([250.0, 900, 700, 400, 2000, 600, 300, 250])
    assert findings(draws) == [()]


def test_few_effective_draws():
    """Of draws or of slow quantities; names how many would do, not where there are enough."""
    found = {finding.code: finding.message for finding in findings(tree(ar1(1, rho=0.9)[..., :100]))[0]}
    ess = float(estimator.summary(tree(ar1(1, rho=0.9)[..., :100]))["ess"].values[0])
    assert ess < 100
    number = float(re.search(r"num_draws=([\d ]+)", found["few-effective-draws"])[1].replace(" ", ""))
    assert number >= 100 * 100 / ess
    slow = np.repeat(evaluations()[:, ::10], 10, 1)
    assert "few-effective-draws" in codes(ar1(1), probe=slow)
    assert "of slow quantities" in findings(tree(ar1(1), probe=slow))[0][-1].message
    assert codes(ar1(1)) == []


def test_drift():
    """By 3 of 30 beneath loud noise, by 8, and by half of one it is noise."""
    quiet, loud = findings(tree(30 + 5 * ar1(1, rho=0, mean=0) + np.linspace(0, 3, DRAWS))), findings(tree(ar1(1, mean=30) + np.linspace(0, 8, DRAWS)))
    for found in (quiet, loud):
        assert found[0][0].code == "not-mixed"
        assert "λ̂ drifts by +" in found[0][0].message
    assert codes(ar1(1, mean=30) + np.linspace(0, 0.5, DRAWS)) == []


def test_below_the_center():
    assert codes(ar1(1, mean=-10)) == ["below-center"]


def test_an_uninformed_reference():
    assert codes(ar1(1), attributes={"reference_loss": 11.0}) == ["uninformed"]
    assert codes(ar1(1), attributes={"reference_loss": 14.0}) == []


def test_localization_only():
    assert codes(ar1(1), gaussian=10.1) == ["localization-only"]
    assert codes(ar1(1), gaussian=np.nan) == []


def test_a_set_of_chains_that_does_not_move_is_stuck():
    """The other one moves, and so does what is made of both. Seen to fail where the combination alone was looked at."""
    moving = ar1(1)[0]
    assert "stuck" not in [finding.code for finding in findings(two_temperatures(moving, ar1(1, seed=1)[0], moved=0.0))[0]]
    assert "stuck" in [finding.code for finding in findings(two_temperatures(moving, np.zeros_like(moving), moved=0.0))[0]]


def test_two_temperatures_tell_of_lower_loss_than_at_the_center():
    """By the first set of chains: at a saddle both lie far below, and their slope does not. Seen to fail where the slope was looked at."""
    first = ar1(1)[0] - 60
    assert [finding.code for finding in findings(two_temperatures(first, 2 * first - ar1(1, seed=2, mean=2)[0]))[0]] == ["below-center"]
    rising = [finding.code for finding in findings(two_temperatures(ar1(1)[0], ar1(1, seed=1)[0] + 40))[0]]
    assert rising == ["not-mixed"]


def test_what_was_seen_of_the_loss_is_told():
    by_example = findings(tree(ar1(1), attributes={"depends_on_batch": True, "by_example": True}))[0]
    of_means = findings(tree(ar1(1), attributes={"depends_on_batch": True, "by_example": False, "batch_size": 20}))[0]
    assert [finding.code for finding in (*by_example, *of_means)] == ["stateful-loss"] * 2
    assert "a second forward pass" in by_example[0].message
    assert "are those of batches of 20" in of_means[0].message
    assert codes(ar1(1), attributes={"depends_on_batch": False, "by_example": True}) == []


def test_statistics_among_the_weights_are_told():
    (found,) = findings(tree(ar1(1), attributes={"statistics": ["batch_stats/mean"]}))[0]
    assert (found.code, "batch_stats/mean" in found.message) == ("statistics", True)


def test_low_precision():
    """Of weights where rounding adds more than a twentieth; of a loss where half a spacing of it does, or of many examples its standard deviation."""
    assert codes(ar1(1), rounding=0.6) == ["low-precision"]
    assert codes(ar1(1), rounding=0.4) == []
    mean = {"loss_dtype": "bfloat16", "by_example": False}
    assert codes(ar1(1), loss=200.0, attributes=mean) == ["low-precision"]  # 200 * 2**-7 / 2 = 0.78 of 10
    assert codes(ar1(1), loss=100.0, attributes=mean) == []
    assert codes(ar1(1), loss=200.0, attributes={"loss_dtype": "float32", "by_example": False}) == []
    assert codes(ar1(1), loss=200.0, attributes=mean | {"by_example": True, "num_examples": 400}) == []  # 1.56 / sqrt(6 * 400) = 0.03
    assert codes(ar1(1), loss=200.0, attributes=mean | {"by_example": True, "num_examples": 1}) == ["low-precision"]  # 0.64
