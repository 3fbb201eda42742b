r"""The local learning coefficient from a trace: $\hat\lambda = n\beta\,(E[L_n(w)] - L_n(w^*))$ (Lau et al., arXiv:2308.12108).

The only place where $\hat\lambda$ is computed. Three things are done to the plain mean:

*Pairing.* A draw's loss is compared with that of the same batch at $w^*$, so that the noise of batches drops out (`Trace.excess_loss`).

*Bias.* The mean over a chain is that of its finite steps and noisy gradients. The chain itself tells by how much, to first order (`Info.step_bias`), and
that is taken off each draw. It also counts gradient noise that the Gaussian prior absorbs, and this share is added again: of SGLD as `jaxllc.absorbed` reads
it off the chains, of SGHMC by the functional variance.
Noise of variance $n^2\beta^2 s^2$ along a direction of curvature $a = n\beta h + \gamma$ raises $U$: the loss by the share $n\beta h / a$ of it, the
prior by $\gamma / a$. What is counted too much goes with $\gamma \sum_j s_j^2 / a_j$, and $1 / a_j$ is about the variance of the chains: the sum is the
variance of a batch's loss along the chains' own spread, $(\frac1B - \frac1n) V$ for batches of $B$, where $V$ is the mean over examples of the variance
over chains of an example's loss, the functional variance (Watanabe, arXiv:1004.2316), less the variance of the mean loss. It is of all chains together,
and kept apart from their draws.

*Extrapolation.* From two sets of chains, over the step size or over $1 / n\beta$ (`Settings.extrapolate`).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllc import mixing, results
from jaxllc._tree import is_real, named_leaves, split_objects, stack
from jaxllc._typing import Params
from jaxllc.engine import NotFiniteError, sample
from jaxllc.error_bars import finite_chains, mean_and_error, moments
from jaxllc.plan import Plan
from jaxllc.probes import LossesBetweenChains
from jaxllc.recording import MAX_REPEATED, Trace, repeating
from jaxllc.results import BIAS_ERROR, CORRECTION_SPREAD, LLC, LLC_CORRECTION, STEP_BIAS, STEP_BIAS_CORRECTION, Name
from jaxllc.series import Series
from jaxllc.step_bias import absorbed_in_sgld, absorbed_noise, bias_error, functional_variance
from jaxllc.views import with_steps

if TYPE_CHECKING:
    import xarray

SLOW_ONES = (results.SQUARED_DISTANCE, results.PROBE_LOSS)
"""Of two sets of chains, those of the second are kept."""
LOSSES = "losses_of_examples"
"""The name of the probe that compares losses between chains."""
MAX_EXCESS_A_WEIGHT = 100.0
r"""A chain has diverged whose mean $U - U(w^*)$, $n\beta\,(L - L(w^*))$ or step bias exceeds this for each free weight.

In equilibrium $U$ rises by about a half for each."""


def estimate_group(plan: Plan, checkpoints: Mapping[Any, Params], on_steps: Callable[[int], Any] | None = None) -> dict[Name, np.ndarray]:
    """The arrays of a result for a group of checkpoints, which run in one program, `[K, ...]`, or of M components `[K, M, ...]`, in the order of `checkpoints`.

    Args:
        plan: what the run does.
        checkpoints: weights by the names that messages give them.
        on_steps: called with the number of iterations of each block that has ended.

    Raises:
        ValueError: the loss at a checkpoint is not finite.
    """
    if len(parts := plan.parts()) > 1:
        share = None if on_steps is None else lambda done: on_steps(done / len(parts))
        found = [estimate_group(part, checkpoints, share) for part in parts]
        return {name: np.concatenate([arrays[name] for arrays in found], 1)[:, : plan.num_components] for name in found[0]}
    components, extrapolate = plan.num_components, plan.settings.extrapolate
    sets, count = 2 if extrapolate else 1, len(checkpoints) * components
    centers = stack([split_objects(params)[0] for params in checkpoints.values()] * sets)
    if components > 1:
        centers = jax.tree.map(lambda leaf: jnp.repeat(leaf, components, 0), centers)
    nbeta = np.full(sets * count, plan.nbeta)
    sampler = plan.sampler
    if extrapolate:
        sampler = sampler.with_step_factors(jnp.concatenate([jnp.ones(count), jnp.full(count, 0.5)]))
        nbeta[count:] *= 2 if extrapolate == "nbeta" else 1
    mask = jax.tree.map(lambda leaf: np.concatenate([leaf] * (sets * len(checkpoints))), plan.masks)
    posterior = dataclasses.replace(plan.posterior(centers), nbeta=nbeta, mask=mask)
    probes = {name: probe for name, probe in plan.probes.items() if probe.along_chains}
    compares = sampler.counts_absorbed_noise and plan.settings.num_chains > 1 and plan.data.batch_size < plan.data.num_examples
    if compares:
        probes[LOSSES] = LossesBetweenChains(plan.loss_fn, plan.data.resident)
    run: dict[str, Any] = dict(mesh=plan.mesh, probes=probes, on_steps=on_steps, dispersion=plan.settings.dispersion, **plan.settings.counts())
    try:
        trace = sample(plan.key, sampler, posterior, plan.data, stacked=True, **run)
    except NotFiniteError as error:
        index = error.index % count // components
        raise NotFiniteError(index, why_not_finite(checkpoints, index)) from error
    between = trace.probes.pop(f"{LOSSES}_between_chains", None)
    good = not_diverged(trace, nbeta, plan)
    absorbed, spread = np.zeros(len(nbeta)), np.zeros(good.shape)
    if between is not None:
        absorbed = absorbed_noise(trace, good, functional_variance(between, good), sampler, plan, nbeta)
    elif trace.virial is not None and plan.data.batch_size < plan.data.num_examples:
        absorbed, spread = absorbed_in_sgld(trace, good, sampler, plan, nbeta)
    arrays = _arrays(trace, nbeta, good, absorbed, spread) | {BIAS_ERROR: bias_error(trace, good, absorbed, sampler, plan, nbeta).astype(np.float32)}
    arrays = _extrapolated(arrays, count, plan) if extrapolate else arrays
    return {name: values.reshape(-1, components, *values.shape[1:]) for name, values in arrays.items()} if plan.components else arrays


def why_not_finite(checkpoints: Mapping[Any, Params], index: int) -> str:
    """The message for a loss at w* that is not finite, with the weights that make it so."""
    name, params = list(checkpoints.items())[index]
    bad = [leaf for leaf, values in named_leaves(params).items() if is_real(values) and not np.isfinite(np.asarray(values, np.float32)).all()]
    why = f"these weights are not finite: {', '.join(bad[:6])}" if bad else "all weights are finite, so loss_fn or the data make it so"
    return f"the loss at w* ({name}) is not finite; {why}. Leave this checkpoint out or mend it."


def not_diverged(trace: Trace, nbeta: np.ndarray, plan: Plan) -> np.ndarray:
    r"""Which chains did not diverge, `[K, C]`: finite ones whose loss, $U$ and step bias are in proportion to the number of weights.

    So a distance from $w^*$ is out of proportion that the prior pays for by more than the loss has fallen.
    """
    settings, every = plan.settings, plan.slow_every
    drawn = min(-(-settings.num_burn_in // every), trace.squared_distance.shape[-1] - 1)
    with np.errstate(invalid="ignore", over="ignore"):
        excess = nbeta[:, None] * trace.excess_loss.mean(-1, dtype=float)
        prior = settings.localization / 2 * trace.squared_distance[..., drawn:].mean(-1, dtype=float)
        largest = np.maximum(np.maximum(excess, excess + prior), np.abs(trace.step_bias.mean(-1, dtype=float)))
        weights = np.resize(plan.facts.get("component_weights", plan.facts["num_weights"]), len(nbeta))
        return finite_chains(trace.excess_loss) & (largest <= MAX_EXCESS_A_WEIGHT * weights[:, None])


def _arrays(trace: Trace, nbeta: np.ndarray, good: np.ndarray, absorbed: np.ndarray, spread: np.ndarray) -> dict[Name, np.ndarray]:
    """The arrays of a trace of K checkpoints."""
    by_draw, by_chain = nbeta[:, None, None], nbeta[:, None]
    with np.errstate(invalid="ignore", over="ignore"):  # chains that diverged
        arrays = {
            LLC: np.where(good[..., None], by_draw * trace.excess_loss - trace.step_bias, np.nan),
            ("sample_stats", "loss"): trace.center_loss + trace.excess_loss,
            STEP_BIAS: trace.step_bias.mean(-1),
            ("sample_stats", "share_moved"): trace.share_moved,
            ("constant_data", "full_center_loss"): trace.full_center_loss,
            ("constant_data", "gaussian_llc"): by_chain * trace.gaussian_excess,
            ("constant_data", "rounding_llc"): nbeta * trace.rounding_excess,
            LLC_CORRECTION: absorbed,
            STEP_BIAS_CORRECTION: -absorbed,
            CORRECTION_SPREAD: spread,
            results.SQUARED_DISTANCE: trace.squared_distance,
            results.PROBE_LOSS: trace.probe_loss,
        }
        if trace.full_center_loss_error is not None:
            arrays[results.CENTER_LOSS_ERROR] = trace.full_center_loss_error
        if trace.acceptance_rate is not None:
            arrays[results.ACCEPTANCE_RATE] = trace.acceptance_rate.mean(-1)
        arrays |= {(results.ALONG_CHAINS, name): values for name, values in trace.probes.items()}
        return {name: np.asarray(values, np.float32) for name, values in arrays.items()}


def _extrapolated(arrays: Mapping[Name, np.ndarray], count: int, plan: Plan) -> dict[Name, np.ndarray]:
    r"""What two sets of `count` checkpoints give together: a bias that goes with $\epsilon$ to the power `bias_order`, or a loss at $w^*$, taken off.

    The coefficient by the second set alone is kept beside: where chains have not mixed, it shows. Of the step's bias the larger is kept.
    """
    over = plan.settings.extrapolate
    first, second = ({name: x[half] for name, x in arrays.items()} for half in (slice(count), slice(count, None)))
    if over == "nbeta":
        both = first | {name: 2 * first[name] - second[name] for name in (LLC, LLC_CORRECTION, CORRECTION_SPREAD)}
        both |= {name: second[name] for name in (STEP_BIAS, STEP_BIAS_CORRECTION, ("constant_data", "rounding_llc"), *SLOW_ONES)}
    else:
        order = plan.sampler.bias_order
        weight = 1 / (2 ** (1.0 if order is None else order) - 1)
        both = {name: (1 + weight) * second[name] - weight * first[name] for name in arrays}
        both |= {name: x for name, x in second.items() if name[0] == results.ALONG_CHAINS or name in SLOW_ONES}
        both |= {name: first[name] for name in (STEP_BIAS, STEP_BIAS_CORRECTION)}
    worse = [name for name in (results.ACCEPTANCE_RATE, ("sample_stats", "share_moved")) if name in arrays]
    both |= {name: np.minimum(first[name], second[name]) for name in worse}
    return both | {results.SECOND_LLC[str(over)]: second[LLC]}


def summary(tree: "xarray.DataTree") -> "xarray.Dataset":
    r"""One value a checkpoint, and of components one for each, of a result with or without the axes `run`, `step` and `component`.

    `llc` and its `std_error`, of which `bias_error` is the part that correcting the step bias adds; `llc_at_nbeta` and its error, the same but for
    two-temperature extrapolation, where they are those at $n\beta$ alone;
    `llc_rhat` and `ess` of the draws (of an extrapolation the worse of its own and those of the second set of chains, whose `drift` it has); `slow_rhat` and
    `slow_ess`, the worst of means over blocks of draws and of the loss of one fixed batch, and `rhat`, the worse of `llc_rhat` and `slow_rhat`;
    `relaxation`, iterations in which what is slow is forgotten; `unmixed_llc`, what directions that still spread may add to `llc`, `free_directions`, how
    many these are, and `distance_rhat` of the distance from $w^*$; `localization_slope`, $\partial \hat\lambda / \partial \ln \gamma$, and its error (see
    `jaxllc.mixing` for these);
    `loss`, which is $L_n(w^*)$, and `loss_error`, its error, 0 unless data are streamed; `mean_loss`, the mean over the posterior,
    $L_n(w^*) + \hat\lambda / n\beta$ with the $\hat\lambda$ of that $n\beta$ alone;
    `wbic`, $n E[L_n]$ in nats, NaN unless $n\beta = n / \ln n$ (Watanabe, arXiv:1208.6338);
    `step_bias`, what the finite step and its batches' noise add, taken off `llc`; `num_diverged` and `num_stuck`
    chains; `drift`, the mean of the last third of the draws minus that of the first, and its error; `change` from the checkpoint before in the same run and
    its error, both from the differences of the same chains, which share their random numbers; `acceptance_rate`, NaN for samplers that accept every step;
    `gaussian_llc` and its error, of the Gaussian prior alone; `rounding_llc`, what rounding of low-precision weights adds.
    """
    import xarray as xr

    tree = with_steps(tree)
    draws, correction = results.value_of(tree, LLC), results.value_of(tree, LLC_CORRECTION)
    finite = finite_chains(draws)
    center_loss = results.value_of(tree, ("constant_data", "full_center_loss"))
    accepted = results.value_of(tree, results.ACCEPTANCE_RATE) if tree.attrs.get("min_acceptance") is not None else np.full(finite.shape, np.nan)
    mean, std_error, rhat, ess = moments(draws)
    left, correction_error = np.abs(results.value_of(tree, BIAS_ERROR)), _correction_error(results.value_of(tree, results.CORRECTION_SPREAD))
    bias_error = np.hypot(left, correction_error)
    std_error = np.hypot(std_error, bias_error)
    columns = {"llc": mean + correction, "std_error": std_error, "bias_error": bias_error}
    columns |= {"llc_at_nbeta": mean + correction, "llc_at_nbeta_error": std_error, "rhat": rhat, "ess": ess}
    second = results.second_llc(tree.attrs)
    other = draws if second is None else results.value_of(tree, second)
    if second is not None:
        columns |= _of_both_sets(tree, draws, other, rhat, ess, bias_error)
    columns |= {"llc_rhat": columns["rhat"], **mixing.columns(tree, np.where(finite[..., None], other, np.nan))}
    columns["rhat"] = np.fmax(columns["llc_rhat"], columns["slow_rhat"])
    columns["loss"] = center_loss
    columns["loss_error"] = results.value_of(tree, results.CENTER_LOSS_ERROR) if tree.attrs.get("streams") else np.zeros(center_loss.shape)
    columns["mean_loss"] = center_loss + columns["llc_at_nbeta"] / float(tree.attrs["nbeta"])
    columns["wbic"] = _wbic(tree, columns["mean_loss"])
    columns["step_bias"] = mean_and_error(np.where(finite, results.value_of(tree, STEP_BIAS), np.nan))[0] + results.value_of(tree, STEP_BIAS_CORRECTION)
    columns["num_diverged"] = (~finite).sum(-1)
    columns["num_stuck"] = _is_stuck(tree, draws, other, accepted).sum(-1)
    third = max(draws.shape[-1] // 3, 1)
    drawn = np.where(finite[..., None], other, np.nan)
    columns["drift"], columns["drift_error"] = mean_and_error(drawn[..., -third:].mean(-1) - drawn[..., :third].mean(-1))
    axes = results.line_axes(tree["posterior/llc"].dims)
    spread = results.value_of(tree, results.CORRECTION_SPREAD)
    columns["change"], columns["change_error"] = _changes(draws, correction, left, spread, axes.index(results.STEP))
    columns["acceptance_rate"] = mean_and_error(np.where(finite, accepted, np.nan))[0]
    columns["gaussian_llc"], columns["gaussian_llc_error"] = mean_and_error(results.value_of(tree, ("constant_data", "gaussian_llc")))
    columns["rounding_llc"] = results.value_of(tree, ("constant_data", "rounding_llc"))
    return xr.Dataset({name: (axes, value) for name, value in columns.items()}, {axis: tree.coords[axis] for axis in axes if axis in tree.coords})


def corrected_draws(tree: "xarray.DataTree") -> np.ndarray:
    r"""Draws of $\hat\lambda$ with what all chains together correct, `[run?, step, chain, draw]`; NaN in chains that diverged."""
    return results.value_of(tree, LLC) + results.value_of(tree, LLC_CORRECTION)[..., None, None]


def _of_both_sets(
    tree: "xarray.DataTree", draws: np.ndarray, second: np.ndarray, rhat: np.ndarray, ess: np.ndarray, bias_error: np.ndarray
) -> dict[str, np.ndarray]:
    """The columns of an extrapolation that look at both sets of chains: where chains have not mixed, both drift and their combination hardly does."""
    second = np.where(finite_chains(draws)[..., None], second, np.nan)
    _, _, second_rhat, second_ess = moments(second)
    columns = {"rhat": np.maximum(rhat, second_rhat), "ess": np.minimum(ess, second_ess)}
    if tree.attrs["extrapolate"] == "nbeta":
        at_nbeta, error, _, _ = moments((draws + second) / 2)
        correction = (results.value_of(tree, LLC_CORRECTION) - results.value_of(tree, STEP_BIAS_CORRECTION)) / 2
        columns |= {"llc_at_nbeta": at_nbeta + correction, "llc_at_nbeta_error": np.hypot(error, bias_error)}
    return columns


def _correction_error(spread: np.ndarray) -> np.ndarray:
    """The standard error of a correction that has this spread over chains, `[..., chain]`; zero for one chain."""
    return np.nan_to_num(mean_and_error(spread)[1])


def _changes(draws: np.ndarray, correction: np.ndarray, left: np.ndarray, spread: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """The change from the checkpoint before, along the axis of steps, and its error, `[run?, step, component?]`; NaN at the first one.

    What a correction may leave, `left`, has the same sign and share at neighbours, so that of a change is their difference.
    """
    change, error = np.full((2, *correction.shape), np.nan)
    if correction.shape[axis] > 1:
        later = (slice(None),) * axis + (slice(1, None),)
        with np.errstate(invalid="ignore"):
            change[later], error[later], _, _ = moments(np.diff(draws, axis=axis))
        change[later] += np.diff(correction, axis=axis)
        of_bias = np.hypot(np.diff(left, axis=axis), _correction_error(np.diff(spread, axis=axis)))
        error[later] = np.hypot(error[later], of_bias)
    return change, error


def _is_stuck(tree: "xarray.DataTree", draws: np.ndarray, second: np.ndarray, accepted: np.ndarray) -> np.ndarray:
    """Which chains repeat themselves since they do not move, `[..., chain]`: nearly all proposals refused, or steps too small for the weights' precision."""
    moves = np.where(np.isfinite(accepted), accepted > 1 - MAX_REPEATED, results.value_of(tree, ("sample_stats", "share_moved")) > MAX_REPEATED)
    return (repeating(draws) | (repeating(second) & finite_chains(draws))) & ~moves


def _wbic(tree: "xarray.DataTree", mean_loss: np.ndarray) -> np.ndarray:
    n, nbeta = int(tree.attrs.get("num_examples", 1)), float(tree.attrs["nbeta"])
    return n * mean_loss if np.isclose(nbeta * np.log(n), n, rtol=1e-6) else np.full_like(mean_loss, np.nan)


def llc_of_probe(tree: "xarray.DataTree", name: str) -> "xarray.Dataset":
    r"""$n\beta\,(E[\phi(w)] - \phi(w^*))$ of the mean $\phi$ of a probe over its elements, along chains of any posterior: `llc` and `std_error`.

    Of losses of other data, or of another loss, it is the data-refined coefficient (Wang et al., arXiv:2410.02984). What finite steps add to the loss that is
    sampled is taken off that alone; here the same share of the value counts in the error.

    Raises:
        KeyError: no such probe.
        ValueError: a probe that is not kept along the chains, or not evaluated at the checkpoint.
    """
    import xarray as xr

    whole, nbeta = summary(tree), float(tree.attrs["nbeta"])
    series = Series(with_steps(tree), name).checked()
    draws = np.stack([one.mean(-1, dtype=float) for one in series.draws()]) - series.at_center().mean(-1, dtype=float)[:, None, None]
    mean, error, _, _ = moments(nbeta * draws)
    shape, axes, coords = series.place()
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.abs(whole["step_bias"].values / (whole["llc"].values + whole["step_bias"].values))
        error = np.hypot(error.reshape(shape), np.abs(mean.reshape(shape)) * np.minimum(np.nan_to_num(share), 1))
    return xr.Dataset({"llc": (axes, mean.reshape(shape)), "std_error": (axes, error)}, coords)
