"""Results that are made, not sampled: draws of a known law, as the arrays of a result."""

import numpy as np

from jaxllc import diagnostics, estimator, results
from jaxllc.results import Place

CHAINS, DRAWS = 8, 1000


def ar1(count, rho=0.9, mean=10.0, seed=0):
    """Chains with unit innovations: stationary variance 1/(1 − ρ²), integrated autocorrelation time (1 + ρ)/(1 − ρ)."""
    rng = np.random.default_rng(seed)
    x = np.empty((count, CHAINS, DRAWS))
    x[..., 0] = rng.normal(size=(count, CHAINS)) / np.sqrt(1 - rho**2)
    for t in range(1, DRAWS):
        x[..., t] = rho * x[..., t - 1] + rng.normal(size=(count, CHAINS))
    return x + mean


def arrays_of(llc, gaussian=100.0, loss=2.0, step_bias=0.1, correction=0.0, moved=1.0, rounding=0.0, bias_error=0.0, distance=None, probe=None):
    """The arrays of a result with these draws of the coefficient, `[place, chain, draw]`, at nbeta = 1.

    The squared distances from w* and the losses of the fixed batch, `[chain, evaluation]` (see `made_every`), are by default those of chains that have mixed.
    """
    llc = np.asarray(llc, np.float32)
    places, by_chain = len(llc), llc.shape[:2]
    return {
        results.LLC: llc,
        ("sample_stats", "loss"): loss + llc,
        results.STEP_BIAS: np.full(by_chain, step_bias),
        ("sample_stats", "share_moved"): np.full(by_chain, moved),
        ("constant_data", "full_center_loss"): np.full(places, loss),
        ("constant_data", "gaussian_llc"): np.full(by_chain, gaussian) + np.linspace(-1, 1, llc.shape[1]),
        ("constant_data", "rounding_llc"): np.full(places, rounding),
        results.LLC_CORRECTION: np.full(places, correction),
        results.BIAS_ERROR: np.full(places, bias_error),
        results.CORRECTION_SPREAD: np.zeros(by_chain),
        results.STEP_BIAS_CORRECTION: np.full(places, -correction),
        results.SQUARED_DISTANCE: np.broadcast_to(_mixed(llc.shape, 1) if distance is None else distance, (*by_chain, _evaluations(llc.shape))),
        results.PROBE_LOSS: np.broadcast_to(_mixed(llc.shape, 2) if probe is None else probe, (*by_chain, _evaluations(llc.shape))),
    }


def made_every(num_draws):
    """Iterations from one evaluation of slow quantities to the next, of chains without burn-in."""
    return max(num_draws // 50, 1)


def _evaluations(shape):
    return len(range(0, shape[-1], made_every(shape[-1])))


def _mixed(shape, seed):
    """Of chains, independent numbers around 10."""
    return 10 + np.random.default_rng(seed).normal(size=(shape[-2], _evaluations(shape)))


def tree(llc, second=None, acceptance=None, runs=(None,), attributes=(), **values):
    """A result of these draws.

    Args:
        llc: of the coefficient, `[place, chain, draw]`, run after run.
        second: of the second set of chains of an extrapolation over nbeta.
        acceptance: the rate of each chain.
        runs: names of training runs.
        attributes: of the result.
        values: see `arrays_of`.
    """
    llc = np.asarray(llc)
    arrays, more = arrays_of(llc, **values), {}
    if second is not None:
        arrays[results.TWICE_NBETA_LLC], more["extrapolate"] = np.asarray(second, np.float32), "nbeta"
    if acceptance is not None:
        arrays[results.ACCEPTANCE_RATE], more["min_acceptance"] = np.full(llc.shape[:2], acceptance), 0.55
    places = [Place(run, step) for run in runs for step in range(len(llc) // len(runs))]
    lengths = {"num_burn_in": 0, "thinning": 1, "slow_every": made_every(llc.shape[2])}
    more = {"localization": 1.0, "relaxation_time": None, "num_weights": 20, **lengths, **more}
    return results.to_tree(arrays, places, {"nbeta": 1.0, "num_chains": llc.shape[1], "num_draws": llc.shape[2], **more, **dict(attributes)})


def of_runs(draws, **options):
    """A result of several runs: draws `[run, step, chain, draw]`."""
    return tree(draws.reshape(-1, *draws.shape[2:]), runs=[f"seed {i}" for i in range(len(draws))], **options)


def findings(made):
    """Of each place."""
    return diagnostics.findings(estimator.summary(made), made.attrs)


def codes(*arguments, **options):
    """Of the findings at the first place of a result that is made of these."""
    return [finding.code for finding in findings(tree(*arguments, **options))[0]]


def two_temperatures(first, second, **options):
    """Of one checkpoint with these draws at nbeta and at twice nbeta, `[chain, draw]`."""
    return tree((2 * first - second)[None], second=second[None], **options)
