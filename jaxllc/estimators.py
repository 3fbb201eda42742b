r"""The local learning coefficient, $\hat\lambda = n\beta\,(E[L_n(w)] - L_n(w^*))$, of a checkpoint (Lau et al., arXiv:2308.12108).

The mean over a chain's draws is that of its finite steps and noisy gradients, not that of the posterior. The chain itself tells by how much, to first order
(`Info.step_bias`), and that is taken off.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxllc import diagnostics, results
from jaxllc._tree import at_least_float32, is_real, named_leaves, stack
from jaxllc._typing import Batch, Key, LossFn, Params
from jaxllc.data import InMemory
from jaxllc.diagnostics import Finding
from jaxllc.engine import NotFiniteError, sample
from jaxllc.free import FreeLike
from jaxllc.samplers.base import Sampler
from jaxllc.settings import Extrapolate, Settings, settle
from jaxllc.watch import Watch

if TYPE_CHECKING:
    import xarray


@dataclasses.dataclass(frozen=True)
class Estimate:
    r"""$\hat\lambda$ of one checkpoint, with what one needs to trust it. Made by `estimate`."""

    data: "xarray.DataTree"
    """All draws: `/posterior` llc (chain, draw), `/sample_stats`, `/constant_data`; every setting in its attributes."""

    @property
    def llc(self) -> float:
        r"""$\hat\lambda$, the mean over the draws of all chains that stayed finite, less `step_bias`; NaN if none did."""
        return self._value("llc")

    @property
    def std_error(self) -> float:
        """Monte-Carlo standard error of `llc`, over chains and their autocorrelation. It knows nothing of what `step_bias` leaves of the step's bias."""
        return self._value("std_error")

    @property
    def step_bias(self) -> float:
        r"""What the finite step and its gradients' noise add to $n\beta\,(E[L_n(w)] - L_n(w^*))$, which is taken off `llc`.

        Of an extrapolation, whose two sets of chains have each their own taken off, the larger: that of the whole step, or that at twice $n\beta$.
        """
        return self._value("step_bias")

    @property
    def wbic(self) -> float:
        r"""$n\, E[L_n(w)]$ in nats, the widely applicable Bayesian information criterion (Watanabe 2013).

        NaN unless $n\beta = n / \ln n$ for the $n$ examples of the data.
        """
        return self._value("wbic")

    @property
    def rhat(self) -> float:
        """Rank-normalised split R-hat; NaN for one chain."""
        return self._value("rhat")

    @property
    def ess(self) -> float:
        """Effective number of draws for the mean."""
        return self._value("ess")

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What makes the number suspect; empty when nothing does."""
        return diagnostics.findings(self.data)[0]

    def __str__(self) -> str:
        chains, draws = self.data.sizes[results.CHAIN], self.data.sizes[results.DRAW]
        head = f"λ̂ = {with_error(self.llc, self.std_error)}  ({chains} chains × {draws} draws, R-hat {self.rhat:.2f}, ESS {self.ess:.1e})"
        wbic_error = self._value("llc_at_nbeta_error") * self.data.attrs["num_examples"] / self.data.attrs["nbeta"]  # it is n (L(w*) + λ̂ / nβ)
        told = [] if np.isnan(self.wbic) else [f"  WBIC = {with_error(self.wbic, wbic_error)} nats"]
        if self.data.attrs.get("extrapolate") == "nbeta":
            alone = self._value("llc_at_nbeta")
            told.append(f"  a ladder: at nβ alone {alone:.2f}, at twice it {2 * alone - self.llc:.2f}")
        return "\n".join([head, *told, *(f"  {finding.code}: {finding.message}" for finding in self.findings)])

    def _value(self, name: str) -> float:
        return float(diagnostics.summary(self.data)[name].values[0])


def with_error(value: float, error: float) -> str:
    """A value to the digits that its error leaves: 70.31 ± 0.42."""
    digits = max(0, 1 - math.floor(math.log10(error))) if np.isfinite(error) and error > 0 else 2
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def estimate(
    loss_fn: LossFn,
    params: Params,
    data: Batch | InMemory,
    *,
    key: Key,
    sampler: Sampler | None = None,
    nbeta: float | None = None,
    localization: float = 1.0,
    free: FreeLike = None,
    batch_size: int | None = 256,
    num_chains: int = 8,
    num_draws: int = 1000,
    num_burn_in: int = 500,
    thinning: int = 1,
    extrapolate: Extrapolate = False,
    mesh: Mesh | None = None,
    progress: bool = True,
    reference_loss: float | None = None,
) -> Estimate:
    r"""$\hat\lambda$ of one checkpoint.

    Args:
        loss_fn: `loss_fn(params, batch) -> float[batch]`, the loss of each example in nats. A scalar mean is accepted; pairing the losses
            then costs one more forward pass a step. Pass the same function again rather than a new lambda, and nothing recompiles.
        params: $w^*$, a pytree of arrays.
        data: a pytree of arrays with one leading axis, the examples.
        key: a typed key, `jax.random.key(seed)`.
        sampler: how chains move; default `DEFAULT_SAMPLER`. A step size of None is a share of the largest that is stable at $w^*$.
        nbeta: $n\beta$; default $n / \ln n$ for the $n$ examples of `data`. Where the loss is a mean over tokens, $n$ counts tokens: pass
            `default_nbeta(num_tokens)`.
        localization: $\gamma$, the strength of the pull to $w^*$.
        free: which weights move: a pattern of paths, or a `Free`; default all.
        batch_size: examples a step; None, or more than there are, takes all. An `InMemory` has its own.
        num_chains: independent chains.
        num_draws: draws kept from each.
        num_burn_in: steps before the first draw.
        thinning: steps from one draw to the next.
        extrapolate: from a second set of chains with the same random numbers, in one program, at twice the cost.
            True or "step_size": at $\epsilon$ and at $\epsilon / 2$, twice the second less the first at each draw: the coefficient at $\epsilon \to 0$, as
            far as what `step_bias` leaves of its bias is linear in $\epsilon$. Where it goes with another power, `bias_order` of the sampler, the weights
            are others.
            "nbeta": at $n\beta$ and, with half the step, at $2 n\beta$, twice the first less the second at each draw. That is the slope of $E[L_n]$ in
            $1 / n\beta$ between the two (Watanabe, arXiv:1208.6338), in which $L_n(w^*)$ drops out. It is for the true weights of a model, whose loss lies
            above the least by about $\lambda / n$ where the model is regular; at weights that are far from any minimum it is the coefficient of where
            the chains settle. `twice_nbeta_llc` of the result tells how far the two differ. `SGNHT`'s bias does not drop out.
        mesh: devices with an axis `chain`; default all that divide the work.
        progress: show a progress bar.
        reference_loss: the loss of a model that knows nothing (a constant predictor, the weights at initialisation), nats per example.
            A mean loss at or above it is a finding.

    Raises:
        TypeError: `loss_fn` is no function, `key` no typed key, `sampler` no sampler, or one without a step size where it is to be halved, or a number is
            not one.
        ValueError: data leaves of different lengths, a loss of the wrong shape or not finite at $w^*$, a count below its least value, or a
            `free` that selects nothing, or an extrapolation over the step size of a sampler whose steps are accepted or refused.
    """
    settings = settle(
        loss_fn, {"params": params}, data, key=key, sampler=sampler, nbeta=nbeta, localization=localization, free=free, batch_size=batch_size,
        num_chains=num_chains, num_draws=num_draws, num_burn_in=num_burn_in, thinning=thinning, extrapolate=extrapolate, mesh=mesh,
    )  # fmt: skip
    with progress_bar(settings.num_steps, progress) as on_steps:
        values = run_group(settings, {"params": params}, on_steps)
    coords = results.coordinates([0], num_chains, num_draws)
    attributes = settings.attributes() | ({} if reference_loss is None else {"reference_loss": float(reference_loss)})
    return Estimate(results.only_step(results.to_tree(values, coords, attributes)))


def run_group(
    settings: Settings, checkpoints: Mapping[Any, Params], on_steps: Callable[[int], Any] | None = None, watch: Watch | None = None
) -> dict[tuple[str, str], np.ndarray]:
    """The arrays of the schema for a group of checkpoints, by the names that messages give them, which run in one program.

    Raises:
        ValueError: the loss at a checkpoint is not finite.
    """
    centers = list(checkpoints.values())
    sampler = settings.sampler
    if settings.extrapolate:
        centers = [*centers, *centers]
        sampler = _and_half_the_step(sampler, len(checkpoints))
    nbeta = np.full(len(centers), settings.nbeta)
    if settings.extrapolate == "nbeta":
        nbeta[len(checkpoints) :] *= 2
    try:
        trace = sample(
            settings.key,
            sampler,
            dataclasses.replace(settings.posterior(stack(centers)), nbeta=nbeta),
            settings.data,
            num_chains=settings.num_chains,
            num_draws=settings.num_draws,
            num_burn_in=settings.num_burn_in,
            thinning=settings.thinning,
            stacked=True,
            mesh=settings.mesh,
            on_steps=on_steps,
            watch=watch,
        )
    except NotFiniteError as error:
        name, params = list(checkpoints.items())[error.index % len(checkpoints)]
        bad = [leaf for leaf, values in named_leaves(params).items() if is_real(values) and not np.isfinite(np.asarray(values, np.float32)).all()]
        why = f"these weights are not finite: {', '.join(bad[:6])}" if bad else "all weights are finite, so loss_fn or the data make it so"
        raise ValueError(f"the loss at w* ({name}) is not finite; {why}. Leave this checkpoint out or mend it.") from error
    found = results.arrays(trace, nbeta)
    return _extrapolated(found, len(checkpoints), settings) if settings.extrapolate else found


def _and_half_the_step(sampler: Any, count: int) -> Any:
    """One sampler for a stack of twice as many centres, whose second half has half the step size."""
    factor = jnp.concatenate([jnp.ones(count), jnp.full(count, 0.5)])
    widened = jax.tree.map(lambda x: jnp.broadcast_to(at_least_float32(x), 2 * count), sampler)
    return dataclasses.replace(widened, step_size=jax.tree.map(lambda x: x * factor.astype(x.dtype), widened.step_size))


def _extrapolated(found: Mapping[tuple[str, str], np.ndarray], count: int, settings: Settings) -> dict[tuple[str, str], np.ndarray]:
    r"""What two rungs of `count` checkpoints each give: a bias that goes with $\epsilon$ to the power `bias_order`, or a loss at $w^*$, taken off.

    What the second rung alone gives of the coefficient is kept beside: where chains have not mixed, it shows. Of the step's bias the larger rung's is kept.
    """
    over = settings.extrapolate
    assert over
    first, second = ({name: x[rung] for name, x in found.items()} for rung in (slice(count), slice(count, None)))
    if over == "nbeta":
        both = first | {results.LLC: 2 * first[results.LLC] - second[results.LLC], results.STEP_BIAS: second[results.STEP_BIAS]}
    else:
        weight = 1 / (2 ** getattr(settings.sampler, "bias_order", 1.0) - 1)
        both = {name: (1 + weight) * second[name] - weight * first[name] for name in found}
        both |= {name: x for name, x in second.items() if name[0] == results.ALONG_CHAINS}
        both[results.STEP_BIAS] = first[results.STEP_BIAS]
    other = results.OTHER_RUNG[over]
    return both | {(other.group, other.name): second[results.LLC]}


class progress_bar:
    """A bar over steps, as a context that gives the function to call with steps done."""

    def __init__(self, total: int, show: bool) -> None:
        from tqdm.auto import tqdm  # loaded when there is something to show

        self._bar = tqdm(total=total, unit="step", unit_scale=True, disable=not show, leave=False)

    def __enter__(self) -> Callable[[int], Any]:
        return self._bar.update

    def __exit__(self, *_: object) -> None:
        self._bar.close()
