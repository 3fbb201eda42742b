r"""Error bars, convergence, and the findings that make a $\hat\lambda$ suspect.

R-hat and ESS are those of Vehtari et al. (arXiv:1903.08008), by ArviZ. The standard error is that of the mean, the larger of two: by the autocorrelation of the
chains (ArviZ), and by the spread of their means. The noise of minibatches is loud and short, flat directions are quiet and long, and a chain's autocorrelation
does not show what is quiet, while independent chains differ by it.
Chains that are not finite count as diverged and are left out of everything else.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxllc.results import STEP, other_rung, row_axes, values, with_steps

if TYPE_CHECKING:
    import xarray

MAX_RHAT = 1.05
MIN_ESS = 100.0
MAX_NEAR = 0.2
"""Share of the coefficient to which the Gaussian control must be known to be compared with it."""
MIN_Z = 4.0
"""Standard errors at which a drift or a negative coefficient is called real."""
MAX_STEP_BIAS = 0.25
"""Share of the coefficient that a finite step may add: it is taken off, but known to first order only (see docs/accuracy.md)."""
MAX_REPEATED = 0.9
"""Share of a chain's draws that may repeat the one before, as refused steps do; on minibatches none does."""
RELATIVE = 0.05
"""Share of the coefficient below which a difference is called none."""


class Finding(NamedTuple):
    """One reason to doubt a number."""

    code: str
    message: str


def summary(tree: "xarray.DataTree") -> "xarray.Dataset":
    r"""One value a checkpoint, of a result with or without the axes `run` and `step`.

    `llc` and its `std_error`; `llc_at_nbeta` and its error, the same but for a ladder of nbeta, where they are those of the first rung alone; `rhat` and `ess`
    (of an extrapolation the worse of its own and those of the chains that were added for it, whose `drift` it has);
    `loss`, which is $L_n(w^*)$, and `mean_loss`, the mean over the posterior, $L_n(w^*) + \hat\lambda / n\beta$ with the $\hat\lambda$ of that $n\beta$ alone;
    `wbic`, $n E[L_n]$ in nats, NaN unless $n\beta = n / \ln n$;
    `step_bias`, what the finite step and its batches' noise add, taken off `llc` (see `jaxllc.samplers.sgld.step_bias`); `num_diverged` and `num_stuck`
    chains; `drift`, the mean of the last third of the draws minus that of the first, and its error; `change` from the checkpoint before in the same run and its
    error, both from the differences of the same chains, which share their random numbers.
    """
    import xarray as xr

    tree = with_steps(tree)
    draws = values(tree, "posterior/llc")
    center_loss = values(tree, "constant_data/full_center_loss")
    llc, std_error, rhat, ess = moments(draws)
    everywhere = _is_finite(draws)[..., None]
    settling, at_nbeta, at_nbeta_error = np.where(everywhere, draws, np.nan), llc, std_error
    if (added := other_rung(tree.attrs)) is not None:
        # Where chains have not mixed, those of both rungs drift and their combination hardly does.
        settling = np.where(everywhere, values(tree, f"{added.group}/{added.name}"), np.nan)
        _, _, other_rhat, other_ess = moments(settling)
        rhat, ess = np.maximum(rhat, other_rhat), np.minimum(ess, other_ess)
        if tree.attrs["extrapolate"] == "nbeta":
            at_nbeta, at_nbeta_error, _, _ = moments((draws + settling) / 2)
    mean_loss = center_loss + at_nbeta / float(tree.attrs["nbeta"])
    third = max(draws.shape[-1] // 3, 1)
    drift, drift_error = _over_last(settling[..., -third:].mean(-1) - settling[..., :third].mean(-1))
    change, change_error = np.full((2, *llc.shape), np.nan)
    if llc.shape[-1] > 1:
        with np.errstate(invalid="ignore"):
            change[..., 1:], change_error[..., 1:], _, _ = moments(np.diff(draws, axis=-3))
    columns = {
        "llc": llc,
        "std_error": std_error,
        "llc_at_nbeta": at_nbeta,
        "llc_at_nbeta_error": at_nbeta_error,
        "rhat": rhat,
        "ess": ess,
        "loss": center_loss,
        "mean_loss": mean_loss,
        "wbic": _wbic(tree, mean_loss),
        "step_bias": _over_last(np.where(_is_finite(draws), values(tree, "sample_stats/step_bias"), np.nan))[0],
        "num_diverged": (~_is_finite(draws)).sum(-1),
        "num_stuck": (_is_stuck(draws) | _is_stuck(settling)).sum(-1),
        "drift": drift,
        "drift_error": drift_error,
        "change": change,
        "change_error": change_error,
    }
    axes = row_axes(tree["posterior/llc"].dims)
    return xr.Dataset({name: (axes, value) for name, value in columns.items()}, {axis: tree.coords[axis] for axis in axes if axis in tree.coords})


def over_runs(tree: "xarray.DataTree") -> "xarray.Dataset":
    r"""Means over the training runs of a result with an axis `run`, by step: `llc` and its `std_error`, `loss`, `mean_loss`.

    The error is that of the mean as an estimate for all runs that might have been. The runs' spread alone, $s / \sqrt R$, misses the noise that they
    share, having the same random numbers: the square of the error is $s^2 / R + c$, where $c$ is the covariance of the Monte-Carlo noise of two
    runs, and follows from the Monte-Carlo error of a run and that of the mean. Runs without a finite chain at a step are left out of it; NaN for one run.
    """
    import xarray as xr

    table = summary(tree)
    draws, llc, own = values(tree, "posterior/llc"), table["llc"].values, table["std_error"].values
    there = np.isfinite(llc)
    count = there.sum(0)
    mean, spread = _over_last(llc.T)
    with np.errstate(invalid="ignore", divide="ignore"):
        together = moments(np.where(there[..., None, None], draws, 0).sum(0) / count[:, None, None])[1]
        shared = (count * together**2 - np.where(there, own**2, 0).sum(0) / count) / (count - 1)
    means = {"llc": mean, "std_error": np.sqrt(spread**2 + np.maximum(shared, 0))}
    means |= {name: _over_last(table[name].values.T)[0] for name in ("loss", "mean_loss")}
    return xr.Dataset({name: (STEP, value) for name, value in means.items()}, {STEP: table[STEP]})


def findings(tree: "xarray.DataTree") -> list[tuple[Finding, ...]]:
    """For each checkpoint what makes its number suspect, run after run; nothing where nothing does."""
    tree = with_steps(tree)
    table = summary(tree)
    control = values(tree, "constant_data/gaussian_llc")
    reference = tree.attrs.get("reference_loss")
    rows = np.ndindex(control.shape[:-1])
    return [_findings({str(name): float(column.values[i]) for name, column in table.items()}, control.shape[-1], control[i], reference) for i in rows]


def _findings(row: dict[str, float], num_chains: int, control: np.ndarray, reference: float | None) -> tuple[Finding, ...]:
    found = []
    if row["num_diverged"]:
        found.append(
            Finding("diverged", f"{row['num_diverged']:.0f} of {num_chains} chains diverged and are left out; a much smaller step size, or a smaller nbeta")
        )
    if not np.isfinite(row["llc"]):
        return tuple(found)
    if row["num_stuck"]:
        found.append(
            Finding(
                "stuck",
                f"{row['num_stuck']:.0f} of {num_chains} chains hardly move, their steps being refused or far too small, and their error bar says nothing; "
                "another step size",
            )
        )
    if abs(row["step_bias"]) > MAX_STEP_BIAS * abs(row["llc"]):
        found.append(
            Finding(
                "step-size",
                f"the finite step and the noise of its batches add about {row['step_bias']:.3g}, too much to take off; a smaller step size, with more steps, "
                "or larger batches",
            )
        )
    if row["rhat"] > MAX_RHAT:
        found.append(Finding("rhat", f"R-hat is {row['rhat']:.2f}: chains disagree; more burn-in, more draws, or a stronger localization"))
    if not row["ess"] >= MIN_ESS:
        found.append(Finding("ess", f"only {row['ess']:.0f} effective draws, so the error bar is itself uncertain; more draws or chains"))
    if abs(row["drift"]) > MIN_Z * row["drift_error"] and abs(row["drift"]) > RELATIVE * abs(row["llc"]):
        found.append(Finding("drifting", f"still drifting by {row['drift']:+.3g} over the draws; more burn-in or a stronger localization"))
    if row["llc"] < -MIN_Z * row["std_error"] and row["llc"] != row["llc_at_nbeta"]:
        found.append(
            Finding("drifting", "the mean loss is higher at twice nbeta, which it is not once chains have settled; more burn-in or a stronger localization")
        )
    if row["llc_at_nbeta"] < -MIN_Z * row["llc_at_nbeta_error"]:
        found.append(Finding("below-center", "the chains found lower loss than at w*, which is no local minimum; a stronger localization stays nearer"))
    if reference is not None and row["mean_loss"] >= reference:
        found.append(
            Finding(
                "uninformed",
                f"the mean loss {row['mean_loss']:.3g} is at or above the uninformed {reference:.3g}: the chains left the basin; "
                "a stronger localization stays in it",
            )
        )
    cloud, cloud_error = _over_last(control[None])
    near = max(RELATIVE * abs(row["llc_at_nbeta"]), 2 * float(np.hypot(np.nan_to_num(cloud_error[0]), row["llc_at_nbeta_error"])))
    if abs(float(cloud[0]) - row["llc_at_nbeta"]) < near < MAX_NEAR * abs(row["llc_at_nbeta"]):
        found.append(
            Finding(
                "localization-only",
                f"a Gaussian cloud of variance 1/localization, without gradients, gives {cloud[0]:.3g} too: a weaker localization or a larger nbeta",
            )
        )
    return tuple(found)


def _wbic(tree: "xarray.DataTree", mean_loss: np.ndarray) -> np.ndarray:
    n, nbeta = int(tree.attrs.get("num_examples", 1)), float(tree.attrs["nbeta"])
    return n * mean_loss if np.isclose(nbeta * np.log(n), n, rtol=1e-6) else np.full_like(mean_loss, np.nan)


def _is_finite(draws: np.ndarray) -> np.ndarray:
    """Which chains are finite throughout, `[..., chain]`."""
    return np.asarray(np.isfinite(draws).all(-1))


def _is_stuck(draws: np.ndarray) -> np.ndarray:
    """Which chains repeat themselves, `[..., chain]`; a broken one does not."""
    repeated = draws[..., 1:] == draws[..., :-1]
    return _is_finite(draws) & (repeated.sum(-1) > MAX_REPEATED * repeated.shape[-1])


def moments(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean, its standard error, R-hat and ESS of each row of `[..., chain, draw]`, over its finite chains; NaN where there are too few draws or chains."""
    from arviz_stats.base import array_stats  # pyright: ignore[reportPrivateImportUsage]  # costs a second: loaded when there is a result to judge

    shape = draws.shape[:-2]
    draws = draws.reshape(-1, *draws.shape[-2:])
    good = _is_finite(draws)
    result = np.full((4, len(draws)), np.nan)
    # Rows with the same number of finite chains go through ArviZ together.
    for count in set(good.sum(-1)) - {0}:
        rows = np.flatnonzero(good.sum(-1) == count)
        chains = np.stack([draws[row][good[row]] for row in rows])
        result[0, rows] = chains.mean((-2, -1))
        if chains.shape[-1] >= 4:
            result[1, rows] = array_stats.mcse(chains, method="mean")
            result[3, rows] = array_stats.ess(chains, method="mean")
            if count > 1:
                result[1, rows] = np.fmax(result[1, rows], _over_last(chains.mean(-1))[1])
                with np.errstate(invalid="ignore", divide="ignore"):  # chains that stand still
                    result[2, rows] = array_stats.rhat(chains, method="rank")
    mean, error, rhat, ess = result.reshape(4, *shape)
    return mean, error, rhat, ess


def _over_last(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over what is finite along the last axis, chains or runs, and its standard error (NaN for one, whose spread is unknown)."""
    good = np.isfinite(values)
    count = good.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(good, values, 0).sum(-1) / count
        squares = np.where(good, values - mean[..., None], 0) ** 2
        return mean, np.sqrt(squares.sum(-1) / (count - 1) / count)
