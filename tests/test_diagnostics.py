"""Each finding on a result that has it and on one that has not."""

import numpy as np
from made_results import CHAINS, DRAWS, ar1, codes, findings, tree, two_temperatures


def test_a_good_run_has_no_findings():
    assert codes(ar1(1), attributes={"reference_loss": 50.0}) == []


def test_chains_that_disagree():
    assert codes(ar1(1) + 4 * np.arange(CHAINS)[:, None]) == ["rhat", "ess"]


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
    assert "ess" in codes(ar1(1, rho=0.9)[..., :100])


def test_drift():
    """By 3 of 30 beneath loud noise it is a drift, by 8 chains also disagree with their own halves, and by half of one it is noise."""
    assert codes(30 + 5 * ar1(1, rho=0, mean=0) + np.linspace(0, 3, DRAWS)) == ["drifting"]
    assert codes(ar1(1, mean=30) + np.linspace(0, 8, DRAWS)) == ["rhat", "ess", "drifting"]
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
    assert rising == ["drifting"]


def test_what_was_seen_of_the_loss_is_told():
    by_example = findings(tree(ar1(1), attributes={"depends_on_batch": True, "by_example": True}))[0]
    of_means = findings(tree(ar1(1), attributes={"depends_on_batch": True, "by_example": False, "batch_size": 20}))[0]
    assert [finding.code for finding in (*by_example, *of_means)] == ["batch-dependent"] * 2
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
