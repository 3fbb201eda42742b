"""The nets that are timed, and loops over their steps: the engine's, the bare gradient's, and one a JAX user would write.

Each loop is a `Run` of `benchmarks.timing`: seconds of so many steps of each of eight chains, divided by the chains.
"""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import jax

jax.config.update("jax_num_cpu_devices", int(os.environ.get("DEVICES", os.cpu_count() or 1)))

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from flax import struct  # noqa: E402
from jax.sharding import NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

import jaxllc  # noqa: E402
from benchmarks.timing import Run, seconds  # noqa: E402
from jaxllc.data import keys_at  # noqa: E402
from jaxllc.engine import sample  # noqa: E402
from jaxllc.models import linear  # noqa: E402
from jaxllc.models.transformer import Transformer, next_token_loss  # noqa: E402
from jaxllc.placement import default_mesh  # noqa: E402
from jaxllc.timetable import Pace, usual_every  # noqa: E402

CHAINS = 8
NUM_EXAMPLES = 10_000
NBETA = 1000.0


PACE = Pace(every=usual_every(1500))
"""Slow quantities as often as in the chains of `jaxllc.Settings()`; timed runs are multiples of four times as many iterations."""


class Case(NamedTuple):
    """One model with its data."""

    name: str
    loss_fn: Callable[..., jax.Array]
    params: Any
    data: Any
    batch_size: int
    num_steps: int
    """of a timed run: a little more than a second on two cores."""

    @property
    def num_weights(self) -> int:
        """Of the model."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    @property
    def label(self) -> str:
        """For tables."""
        return f"{self.name} ({self.num_weights:,} weights, batch {self.batch_size})"

    def cut(self, factor: int) -> "Case":
        """With shorter timed runs."""
        return self._replace(num_steps=max(8, self.num_steps // factor))


def deep_linear(widths: tuple[int, ...], batch_size: int, num_steps: int) -> Case:
    """A deep linear net of full rank on 10 000 examples."""
    params = linear.teacher(jax.random.key(0), widths)
    data = linear.examples(jax.random.key(1), params, NUM_EXAMPLES)
    return Case("-".join(map(str, widths)), linear.squared_loss, params, data, batch_size, num_steps)


def language_model() -> Case:
    """Two attention-only layers of 70 000 weights on 512 random sequences of 64 tokens."""
    model = Transformer(256, 64, width=64, num_layers=2, num_heads=4)
    tokens = np.random.default_rng(0).integers(0, 256, (512, 65))
    return Case("transformer", next_token_loss(model), model.init_params(jax.random.key(0)), tokens, 16, 128)


def digits_cnn(batch_size: int = 64, num_steps: int = 256) -> Case:
    """Two convolutions of 3 by 3, of 16 and 32 channels, on the images of 8 by 8 of scikit-learn's digits, and a linear layer."""
    from sklearn.datasets import load_digits  # pyright: ignore[reportMissingImports]

    images, labels = load_digits(return_X_y=True)
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = {"first": (3, 3, 1, 16), "second": (3, 3, 16, 32), "output": (8 * 8 * 32, 10)}
    params = {name: jax.random.normal(key, shape) / np.prod(shape[:-1]) ** 0.5 for key, (name, shape) in zip(keys, shapes.items(), strict=True)}

    def loss_fn(params: Any, batch: Any) -> jax.Array:
        x = batch[0].reshape(-1, 8, 8, 1)
        for name in ("first", "second"):
            x = jax.nn.relu(jax.lax.conv_general_dilated(x, params[name], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))
        logits = x.reshape(len(x), -1) @ params["output"]
        return jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, batch[1][:, None], -1)[:, 0]

    return Case("cnn", loss_fn, params, ((images / 16).astype(np.float32), labels.astype(np.int32)), batch_size, num_steps)


CASES: dict[str, Callable[[], Case]] = {
    "small": functools.partial(deep_linear, (10, 20, 20, 10), 500, 5120),
    "medium": functools.partial(deep_linear, (100, 100, 100, 100), 500, 512),
    "wide": functools.partial(deep_linear, (100, 100, 100, 100, 100), 64, 1536),
    "batches of 64": functools.partial(deep_linear, (100, 100, 100, 100), 64, 2048),
    "batches of 16": functools.partial(deep_linear, (100, 100, 100, 100), 16, 4096),
    "transformer": language_model,
    "cnn": digits_cnn,
}


@struct.dataclass
class SharedBatches(jaxllc.InMemory):
    """Data of which all chains share one new batch a step, instead of one each."""


def _batch_of_the_first(key: jax.Array, chain: jax.Array, iteration: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`keys_at`, with the batch of chain 0."""
    return keys_at(key, chain, iteration)[0], keys_at(key, jnp.zeros_like(chain), iteration)[1]


def chain_step(case: Case, noise: str = "rademacher", data_of: type[jaxllc.InMemory] = jaxllc.InMemory, sampler: Any = None) -> Run:
    """The engine, through `jaxllc.sample`, with SGLD of this noise or another sampler."""
    data = data_of.of(case.data, case.batch_size)
    posterior = jaxllc.LocalPosterior(case.loss_fn, case.params, NBETA, 1.0)
    sampler = sampler or jaxllc.SGLD(1e-6, noise=noise)

    def run(num_steps: int) -> float:
        with mock.patch("jaxllc.chain.keys_at", _batch_of_the_first if data_of is SharedBatches else keys_at):
            return seconds(lambda: sample(jax.random.key(0), sampler, posterior, data, num_chains=CHAINS, num_draws=num_steps, block=PACE).excess_loss) / CHAINS

    return run


def bare_gradients(case: Case) -> dict[str, Run]:
    """`value_and_grad` alone, run in several ways; a chain-step is compared with the fastest."""
    return {
        f"gradient, {how}, {what}": _bare_gradient(case, vmapped, moving)
        for vmapped, how in ((True, "vmapped"), (False, "one by one"))
        for moving, what in ((False, "fixed batches"), (True, "moving windows"))
    }


def _bare_gradient(case: Case, vmapped: bool, moving: bool) -> Run:
    """Weights really change from step to step; chains are sharded like the engine's, and vmapped or looped over.

    A batch is fixed, one for each chain, or a window that moves through one shared data set, without any random number.
    """
    mesh = default_mesh(CHAINS)
    data = jaxllc.InMemory.of(case.data, case.batch_size)
    stacked = jax.device_put(jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (CHAINS, *leaf.shape)), case.params), NamedSharding(mesh, P("chain")))
    starts = (jnp.arange(CHAINS, dtype=jnp.int32) * case.batch_size) % data.num_examples
    source = jax.device_put(data if moving else jax.vmap(data.batch)(starts), NamedSharding(mesh, P() if moving else P("chain")))

    def chain(params: Any, start: jax.Array, source: Any, num_steps: int) -> tuple[Any, jax.Array]:
        def step(params: Any, t: jax.Array) -> tuple[Any, jax.Array]:
            batch = source.batch((start + 37 * t) % data.num_examples) if moving else source
            loss, grad = jax.value_and_grad(lambda p: case.loss_fn(p, batch).mean())(params)
            return jax.tree.map(lambda w, g: w - 1e-6 * g, params, grad), loss

        return jax.lax.scan(step, params, jnp.arange(num_steps, dtype=jnp.int32))

    @functools.partial(jax.jit, static_argnums=3)
    def program(stacked: Any, starts: jax.Array, source: Any, num_steps: int) -> Any:
        def device(stacked: Any, starts: jax.Array, source: Any) -> Any:
            def each(params: Any, start: jax.Array, own: Any) -> tuple[Any, jax.Array]:
                return chain(params, start, source if moving else own, num_steps)

            arguments = (stacked, starts, None if moving else source)
            return jax.vmap(each)(*arguments) if vmapped else jax.lax.map(lambda one: each(*one), arguments)

        specs = (P("chain"), P("chain"), P() if moving else P("chain"))
        return jax.shard_map(device, mesh=mesh, in_specs=specs, out_specs=P("chain"), check_vma=False)(stacked, starts, source)

    return lambda num_steps: seconds(lambda: program(stacked, starts, source, num_steps)) / CHAINS


def gradient_outside_of_a_loop(case: Case) -> Run:
    """`value_and_grad` of one chain after the other, one call of a compiled program for each step: XLA's fast convolutions, on all cores."""
    data = jaxllc.InMemory.of(case.data, case.batch_size)

    @jax.jit
    def step(params: Any, start: jax.Array, data: jaxllc.InMemory) -> tuple[Any, jax.Array]:
        loss, grad = jax.value_and_grad(lambda p: case.loss_fn(p, data.batch(start)).mean())(params)
        return jax.tree.map(lambda w, g: w - 1e-6 * g, params, grad), loss

    def run(num_steps: int) -> Any:
        params, loss = case.params, None
        for t in range(num_steps):
            params, loss = step(params, jnp.int32(37 * t % data.num_examples), data)
        return params, loss

    return lambda num_steps: seconds(lambda: run(num_steps))


def blackjax_loop(case: Case) -> Run:
    """What a JAX user would write: blackjax.sgld, Gaussian noise, rows at random, a scan under vmap on JAX's one default CPU device."""
    import blackjax

    data = jax.tree.map(jnp.asarray, case.data)
    num_examples = jax.tree.leaves(data)[0].shape[0]
    center = jax.device_put(case.params, jax.devices()[0])

    def log_density(params: Any, batch: Any) -> jax.Array:
        distance = sum(jnp.sum((w - c) ** 2) for w, c in zip(jax.tree.leaves(params), jax.tree.leaves(center), strict=True))
        return -NBETA * case.loss_fn(params, batch).mean() - 0.5 * distance

    sgld = blackjax.sgld(jax.grad(log_density))

    def chain(key: jax.Array, data: Any, num_steps: int) -> jax.Array:
        def step(params: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            batch_key, noise_key = jax.random.split(key)
            rows = jax.random.randint(batch_key, (case.batch_size,), 0, num_examples)
            batch = jax.tree.map(lambda leaf: leaf[rows], data)
            loss = case.loss_fn(params, batch).mean()
            return sgld.step(noise_key, params, batch, 5e-7), loss  # pyright: ignore[reportCallIssue]

        return jax.lax.scan(step, center, jax.random.split(key, num_steps))[1]

    program = jax.jit(jax.vmap(chain, in_axes=(0, None, None)), static_argnums=2)
    keys = jax.random.split(jax.random.key(0), CHAINS)
    return lambda num_steps: seconds(lambda: program(keys, data, num_steps)) / CHAINS
