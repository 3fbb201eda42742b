"""What every sampler gives on one small net, as `tests/data/numbers.json` keeps it: a change of the code must not change a chain.

`python tests/stored_numbers.py` writes the file anew, which only a change that is meant to move numbers may do.
"""

import json
from pathlib import Path

import conftest  # noqa: F401 - the same strict numerics; before BlackJAX, which starts JAX

# isort: split
import blackjax
import jax
import numpy as np
import optax

import jaxllc
from jaxllc.models import linear

FILE = Path(__file__).parent / "data" / "numbers.json"
NAMES = ("llc", "std_error", "step_bias", "loss", "mean_loss", "rhat", "ess", "drift", "llc_at_nbeta")

ON_MINIBATCHES = {
    "sgld": jaxllc.SGLD(2e-3),
    "sgld, default": None,
    "sgld, larger steps in burn-in": jaxllc.SGLD(None, burn_in_factor=4.0),
    "sgld, gaussian noise": jaxllc.SGLD(2e-3, noise="gaussian"),
    "sgld, control variate": jaxllc.SGLD(2e-3, gradient=jaxllc.ControlVariate()),
    "sgld, schedule": jaxllc.SGLD(optax.exponential_decay(2e-3, 100, 0.9)),
    "sgld, rmsprop": jaxllc.SGLD(1e-3, jaxllc.RMSProp()),
    "sgld, adam": jaxllc.SGLD(1e-3, jaxllc.Adam()),
    "sghmc": jaxllc.SGHMC(3e-4, friction=20.0),
    "sghmc, default": jaxllc.SGHMC(None, friction=40.0),
    "sghmc, control variate": jaxllc.SGHMC(3e-4, friction=20.0, gradient=jaxllc.ControlVariate()),
    "sgnht": jaxllc.SGNHT(3e-4, friction=20.0),
}
ON_ALL_DATA = {
    "mala": jaxllc.MALA(4e-3),
    "hmc": jaxllc.HMC(4e-3, num_integration_steps=3),
    "nuts": jaxllc.NUTS(4e-3, max_num_doublings=3),
    "mclmc": jaxllc.MCLMC(1e-3),
    "blackjax, barker": jaxllc.BlackJAX(blackjax.barker, step_size=0.06),
}
EXTRAPOLATED = (False, "step_size", "nbeta")


def cases():
    """Sampler, batch size and extrapolation of each case, by name."""
    for samplers, batch_size in ((ON_MINIBATCHES, 64), (ON_ALL_DATA, None)):
        for name, sampler in samplers.items():
            for over in EXTRAPOLATED:
                exact = over == "step_size" and getattr(sampler, "bias_order", 1.0) is None
                if not exact and not (over and isinstance(sampler, jaxllc.BlackJAX)):
                    yield f"{name}, {over or 'plain'}", sampler, batch_size, over


def measure(sampler, batch_size, over):
    """One estimate and one trajectory of three checkpoints: the columns `NAMES` of their tables."""
    params = linear.teacher(jax.random.key(1), widths=(3, 4, 3))
    data = linear.examples(jax.random.key(2), params, 300)
    run = dict(
        key=jax.random.key(0), sampler=sampler, batch_size=batch_size, extrapolate=over, num_chains=4, num_draws=60, num_burn_in=40, thinning=2, progress=False
    )
    est = jaxllc.estimate(linear.squared_loss, params, data, **run)
    checkpoints = {step: jax.tree.map(lambda leaf, scale=scale: scale * leaf, params) for step, scale in ((1, 0.8), (2, 0.9), (3, 1.0))}
    traj = jaxllc.trajectory(linear.squared_loss, checkpoints, data, **run)
    return {"estimate": _columns(est), "trajectory": _columns(traj)}


def _columns(result):
    try:
        from jaxllc.diagnostics import summary

        table = summary(result.data)
    except ImportError:
        table = result.summary
    # The file calls `rhat` that of the draws alone.
    return {name: np.ravel(table["llc_rhat" if name == "rhat" and "llc_rhat" in table else name].values).astype(float).tolist() for name in NAMES}


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps({name: measure(*case) for name, *case in cases()}, indent=1) + "\n")
