"""Weights as other libraries hand them over, through both verbs: what is no weight stays as it is, and the number is that of the weights alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxllc

RNG = np.random.default_rng(0)
X = RNG.normal(size=(600, 3)).astype(np.float32)
Y = (X.sum(1) + RNG.normal(size=600)).astype(np.float32)
SHORT = dict(num_draws=60, num_burn_in=20, num_chains=4, progress=False)


@jax.tree_util.register_pytree_with_keys_class
class Layer:
    """A module whose activation is a leaf, as in equinox."""

    def __init__(self, weight, activation):
        self.weight, self.activation = weight, activation

    def __call__(self, x):
        return self.activation(x @ self.weight)

    def tree_flatten_with_keys(self):
        return [(jax.tree_util.GetAttrKey(name), value) for name, value in vars(self).items()], None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls(*leaves)


def module_loss(module, batch):
    return (module(batch[0]) - batch[1]) ** 2 / 2


def weight_loss(weight, batch):
    return (jnp.tanh(batch[0] @ weight) - batch[1]) ** 2 / 2


def test_a_module_with_functions_is_its_weights(key):
    weight = jnp.asarray([1.0, 0.5, -0.5])
    module = Layer(weight, jnp.tanh)
    est = jaxllc.estimate(module_loss, module, (X, Y), key=key, **SHORT)
    same = jaxllc.estimate(weight_loss, weight, (X, Y), key=key, **SHORT)
    assert est.llc == pytest.approx(same.llc, rel=1e-4)
    probe = {"norm": jaxllc.Probe(lambda m: jnp.vdot(m.weight, m.weight), every=20)}
    traj = jaxllc.trajectory(module_loss, {0: module, 1: Layer(2 * weight, jnp.tanh)}, (X, Y), key=key, probes=probe, **SHORT)
    assert traj.table().llc.to_numpy()[0] == pytest.approx(same.llc, rel=1e-4)
    np.testing.assert_allclose(traj.table()["norm"], [1.5, 6.0])


def test_checkpoints_with_other_functions_are_refused(key):
    checkpoints = {0: Layer(jnp.ones(3), jnp.tanh), 1: Layer(jnp.ones(3), jnp.sin)}
    with pytest.raises(ValueError, match="step 1 hold other functions or settings than those at step 0, in one of these leaves: activation"):
        jaxllc.trajectory(module_loss, checkpoints, (X, Y), key=key, strict=True, **SHORT)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.linear, self.norm, self.drop = nnx.Linear(3, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(self.norm(self.linear(x))).sum(-1)


def test_an_nnx_state_with_statistics_and_keys_is_its_params(key):
    """The whole state gives what its `nnx.Param`s give alone; statistics and keys do not move, and nothing is told."""
    model = Net(nnx.Rngs(0))
    model.eval()
    graph, state = nnx.split(model)
    _, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(state, batch):
        with jax.numpy_rank_promotion("allow"):
            return (nnx.merge(graph, state)(batch[0]) - batch[1]) ** 2 / 2

    def loss_of_params(params, batch):
        with jax.numpy_rank_promotion("allow"):
            return (nnx.merge(graph, params, rest)(batch[0]) - batch[1]) ** 2 / 2

    whole = jaxllc.estimate(loss, state, (X, Y), key=key, **SHORT)
    alone = jaxllc.estimate(loss_of_params, params, (X, Y), key=key, **SHORT)
    assert whole.llc == pytest.approx(alone.llc, rel=1e-3)
    assert whole.data.attrs["num_weights"] == 3 * 4 + 4 + 4 + 4
    assert "statistics" not in [finding.code for finding in whole.findings]


def test_statistics_that_nothing_marks_are_told(key):
    params = {"bn": {"mean": jnp.zeros(3), "var": jnp.ones(3), "scale": jnp.ones(3), "bias": jnp.zeros(3)}}

    def loss(p, batch):
        bn = p["bn"]
        x = (batch[0] - bn["mean"][None]) / jnp.sqrt(bn["var"] + 1e-5)[None] * bn["scale"][None] + bn["bias"][None]
        return (x.sum(-1) - batch[1]) ** 2 / 2

    est = jaxllc.estimate(loss, params, (X, Y), key=key, **SHORT)
    assert "bn/mean, bn/var" in {finding.code: finding.message for finding in est.findings}["statistics"]
    quiet = jaxllc.estimate(loss, params, (X, Y), key=key, free=["bn/scale", "bn/bias"], **SHORT)
    assert "statistics" not in [finding.code for finding in quiet.findings]
