"""Weights that are split over devices: equal numbers on any mesh, no communication but the gradient's, and shards that stay shards."""

import functools
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxllc
from jaxllc import SGLD, InMemory, LocalPosterior, engine, sample
from jaxllc.layout import Layout, layout_of
from jaxllc.placement import default_mesh, on_devices

WIDTH, HIDDEN = 32, 64
SPECS = {"bias": P("model"), "down": P("model", None), "scale": P(), "up": P(None, "model")}
"""As tensor parallelism has it; one leaf is whole everywhere, and one is shorter than 32 numbers a device."""
RUN = dict(num_chains=4, num_draws=30, num_burn_in=10)
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")


def weights(width=WIDTH, hidden=HIDDEN):
    up, down = (jax.random.normal(jax.random.key(i), shape) / 8 for i, shape in enumerate([(width, hidden), (hidden, width)]))
    return {"bias": jnp.full(hidden, 0.1), "down": down, "scale": jnp.ones(width), "up": up}


def examples(width=WIDTH):
    return np.asarray(jax.random.normal(jax.random.key(2), (100, width)))


def loss_fn(params, batch):
    hidden = jnp.tanh((batch * params["scale"][None]) @ params["up"] + params["bias"][None])
    return 0.5 * ((hidden @ params["down"] - batch) ** 2).sum(-1)


def low_precision_loss(params, batch):
    """The same model, which computes in bfloat16."""
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    return loss_fn(low, batch.astype(jnp.bfloat16)).astype(jnp.float32)


def mesh_of(*shape, names=("data", "model"), kind=AxisType.Auto):
    return Mesh(np.asarray(jax.devices()[: int(np.prod(shape))]).reshape(shape), names, axis_types=(kind,) * len(shape))


def split(params, mesh, specs=SPECS):
    return {name: jax.device_put(leaf, NamedSharding(mesh, specs[name])) for name, leaf in params.items()}


def run(params, loss=loss_fn, sampler=None, batch_size=16, **options):
    posterior = LocalPosterior(loss, params, 50.0, 20.0)
    return sample(jax.random.key(0), sampler or SGLD(1e-3), posterior, InMemory.of(examples(), batch_size), **(RUN | options))


def assert_same(a, b):
    """To rounding, of which probabilities of acceptance have more, since energies of all data go into them."""
    for name, x, y in zip(a._fields, a, b, strict=True):
        for values, others in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
            np.testing.assert_allclose(values, others, rtol=1e-4, atol=2e-3 if name == "acceptance_rate" else 2e-5, err_msg=name)


@functools.cache
def whole():
    return run(weights())


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("shape", [pytest.param((1, 1), marks=pytest.mark.slow), (2, 2), pytest.param((1, 4), marks=pytest.mark.slow)])
def test_numbers_are_those_of_whole_weights(shape, kind):
    """Also of weights on a mesh of explicit axes, as `jax.make_mesh` makes it.

    Seen to fail with the sums of the leaf that is whole counted by each device, and with each leaf's noise drawn from the beginning.
    """
    assert_same(run(split(weights(), mesh_of(*shape, kind=kind))), whole())


@pytest.mark.parametrize("devices", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_other_numbers_of_host_devices(devices, tmp_path):
    """In a process of its own, since JAX fixes its devices at the start."""
    code = (
        f"import jax; jax.config.update('jax_num_cpu_devices', {devices})\n"
        "import sys, numpy as np; sys.path.insert(0, 'tests')\n"
        "from test_layout import mesh_of, run, split, weights\n"
        f"assert jax.device_count() == {devices}\n"
        f"np.savez({str(tmp_path / 'trace.npz')!r}, **{{name: run(split(weights(), mesh_of(*shape))).excess_loss for name, shape in "
        f"(('wide', (1, {devices})), ('beside', ({-(-devices // 4)}, {min(devices, 4)})))}})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
    for values in np.load(tmp_path / "trace.npz").values():
        np.testing.assert_allclose(values, whole().excess_loss, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    "sampler",
    [
        SGLD(1e-3, noise="gaussian"),
        SGLD(1e-3, jaxllc.Adam()),
        pytest.param(jaxllc.MALA(1e-4), marks=pytest.mark.slow),
        pytest.param(SGLD(1e-3, gradient=jaxllc.ControlVariate()), marks=pytest.mark.slow),
        pytest.param(jaxllc.SGHMC(1e-4), marks=pytest.mark.slow),
    ],
    ids=["gaussian noise", "adam", "mala", "control variate", "sghmc"],
)
def test_any_sampler_takes_split_weights(sampler):
    size = None if sampler.full_batch else 16
    options = dict(sampler=sampler, batch_size=size, num_draws=8, dispersion=1.0)
    assert_same(run(split(weights(), mesh_of(2, 2)), **options), run(weights(), **options))


def test_a_stack_of_checkpoints_is_split_too():
    """Three of them, two axes for the weights, and a mesh of one's own that has them."""
    specs = {"bias": P(), "down": P("rows", "columns"), "scale": P(), "up": P(None, ("rows", "columns"))}
    mesh = mesh_of(1, 2, 2, names=("chain", "rows", "columns"))
    stack = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.1 * leaf, 0.9 * leaf]), weights())
    stacked = split(stack, mesh, {name: P(None, *spec) for name, spec in specs.items()})
    assert_same(run(stacked, stacked=True, mesh=mesh), run(stack, stacked=True))


def collectives(text):
    return {name: count for name in COLLECTIVES if (count := len(re.findall(rf" {name}(?:-start)?\(", text)))}


def compiled_block(monkeypatch, params, loss, data):
    """The block of steps that `sample` runs for two chains, as it is compiled."""
    block, found = engine._block, []

    def spy(*arguments, **options):
        found.append(block.lower(*arguments, **options).compile())
        return block(*arguments, **options)

    monkeypatch.setattr(engine, "_block", spy)
    sample(jax.random.key(0), SGLD(1e-3), LocalPosterior(loss, params, 50.0, 20.0), data, num_chains=2, num_draws=8)
    monkeypatch.undo()
    return found[0]


def collectives_of_gradient(params, loss, size):
    """Those of the losses and the gradient for as many chains at once, and of the losses alone."""

    def gradients(params, batch):
        return jax.vmap(lambda params: jax.grad(lambda p: (loss(p, batch).mean(), loss(p, batch)), has_aux=True)(params))(params)

    def losses(params, batch):
        return jax.vmap(lambda params: loss(params, batch))(params)

    ours = default_mesh(2, layout=layout_of(params))
    chains = {name: jax.device_put(jnp.stack([leaf] * 2), NamedSharding(ours, P("chain", *SPECS[name]))) for name, leaf in params.items()}
    split_again = jax.tree.map(lambda leaf: leaf.sharding, chains)
    batch = jnp.asarray(examples()[:size])
    for function, shardings in ((gradients, (split_again, None)), (losses, None)):
        program = jax.jit(on_devices(function, ours, in_specs=(P("chain"), P()), out_specs=P("chain")), out_shardings=shardings)
        yield collectives(program.lower(chains, batch).compile().as_text())


def constrained_loss(params, batch):
    """Whose examples are divided over the axis of the weights, as in fully sharded data parallelism."""
    return loss_fn(params, jax.lax.with_sharding_constraint(batch, P("model", None)))


@pytest.mark.parametrize("shape", [(1, 4), pytest.param((2, 2), marks=pytest.mark.slow)])
@pytest.mark.parametrize("loss", [loss_fn, pytest.param(low_precision_loss, marks=pytest.mark.slow), constrained_loss])
def test_a_block_communicates_what_the_gradient_does(loss, shape, monkeypatch):
    """With all data at each step as often; on minibatches once in `every` iterations also what the losses of the fixed batch do.

    Where examples are divided, the mean of the losses adds one number of each device; JAX 0.10 saves an equal gather in the block for it, 0.12 does not.
    Seen to fail with products of whole trees in the place of each device's own, and with noise that is drawn for all leaves at once.
    """
    params = split(weights(), mesh_of(*shape))
    gradient, _ = collectives_of_gradient(params, loss, 100)
    found = collectives(compiled_block(monkeypatch, params, loss, InMemory.of(examples(), None)).as_text())
    assert 0 < sum(found.values()) <= sum(gradient.values()) + (loss is constrained_loss)
    assert loss is constrained_loss or found == gradient
    gradient, losses = collectives_of_gradient(params, loss, 16)
    found = collectives(compiled_block(monkeypatch, params, loss, InMemory.of(examples(), 16)).as_text())
    assert sum(found.values()) <= sum(gradient.values()) + sum(losses.values())


def test_a_device_holds_its_shard_twice_and_the_gradient(monkeypatch):
    """Of 2 MiB of weights on four devices, with small activations: w* and two chains, and beside them two gradients and what a CPU does not fuse.

    Seen to fail with noise that is drawn for all leaves at once. What a TPU holds is in benchmarks/results/pods.json.
    """
    params, data = split(weights(256, 1024), mesh_of(1, 4)), InMemory.of(examples(256), 4)
    sizes = compiled_block(monkeypatch, params, loss_fn, data).memory_analysis()
    shard = 256 * 1024 * 2 * 4 / 4
    given = sizes.argument_size_in_bytes - data.arrays.nbytes
    assert given < 1.05 * 3 * shard
    assert sizes.alias_size_in_bytes > 0.95 * 2 * shard
    assert sizes.temp_size_in_bytes < 6 * shard


@pytest.mark.slow
def test_chains_are_float32_where_the_model_is_not():
    """Weights of float32 in a model that computes in bfloat16, and weights of bfloat16: chains as without a mesh, whose states are in float32.

    Roundings of bfloat16 fall differently once products are divided, by which chains of 40 steps differ in the second digit of a loss.
    """
    exact = whole().excess_loss
    for params, loss in ((weights(), low_precision_loss), (jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), weights()), low_precision_loss)):
        trace = run(split(params, mesh_of(1, 4)), loss)
        alone = run(params, loss)
        assert trace.excess_loss.dtype == np.float32
        np.testing.assert_allclose(trace.excess_loss, alone.excess_loss, atol=0.02 * np.abs(exact).max())
        np.testing.assert_allclose(trace.squared_distance, alone.squared_distance, rtol=1e-2)


def test_estimates_of_split_weights_are_those_of_whole_ones():
    """With a default step size, of two leaves alone, and with a probe along the chains."""
    options = dict(key=jax.random.key(0), free=["up", "bias"], localization=20.0, batch_size=16, **RUN)
    options |= dict(probes={"norm": jaxllc.Probe(lambda params: jnp.sum(params["up"] ** 2), every=5)}, progress=False)
    found, expected = (jaxllc.estimate(loss_fn, params, examples(), **options) for params in (split(weights(), mesh_of(2, 2)), weights()))
    for name in ("llc", "std_error", "step_bias", "mean_loss"):
        np.testing.assert_allclose(found.summary[name], expected.summary[name], rtol=1e-3, err_msg=name)
    np.testing.assert_allclose(found.data["probes"]["norm"], expected.data["probes"]["norm"], rtol=1e-4)


@pytest.mark.slow
def test_calibration_takes_split_weights():
    est = jaxllc.estimate(loss_fn, split(weights(), mesh_of(1, 4)), examples(), key=jax.random.key(0), num_chains=2, progress=False)
    assert np.isfinite(est.llc)
    assert est.data.attrs["calibration"]


@pytest.fixture
def saved(tmp_path):
    """A run of two checkpoints in bfloat16."""
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        for step in (1, 2):
            state = {"params": jax.tree.map(lambda leaf, step=step: (leaf * step).astype(jnp.bfloat16), weights()), "count": jnp.zeros(())}
            manager.save(step, args=ocp.args.StandardSave(state))
    return tmp_path / "run"


def test_checkpoints_are_restored_to_their_shards(saved):
    """Leaves that `like` splits are arrays of its sharding and dtype, the others numpy arrays as ever."""
    mesh = mesh_of(1, 4)
    like = {name: jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=NamedSharding(mesh, SPECS[name])) for name, leaf in weights().items()}
    checkpoints = jaxllc.OrbaxCheckpoints(saved, like=like)
    for name, leaf in checkpoints[2].items():
        np.testing.assert_array_equal(leaf, (2 * weights()[name]).astype(jnp.bfloat16).astype(jnp.float32))
        assert leaf.dtype == jnp.float32
        if name == "scale":
            assert isinstance(leaf, np.ndarray)
        else:
            assert leaf.sharding == like[name].sharding
            assert leaf.addressable_shards[0].data.size == leaf.size // 4
    settings = jaxllc.Settings(sampler=SGLD(1e-3), nbeta=50.0, localization=20.0, batch_size=16, **RUN)
    found, expected = (
        jaxllc.trajectory(loss_fn, run, examples(), settings, key=jax.random.key(0), progress=False)
        for run in (checkpoints, {step: jax.tree.map(np.asarray, checkpoints[step]) for step in checkpoints})
    )
    np.testing.assert_allclose(found.summary["llc"], expected.summary["llc"], rtol=1e-4)


def test_the_rest_of_the_mesh_is_for_chains_and_checkpoints():
    layout = layout_of(split(weights(), mesh_of(2, 2, names=("model", "data"))))
    assert isinstance(layout, Layout)
    for (chains, checkpoints), shape in {(4, 1): (1, 2, 2), (3, 2): (2, 1, 2), (3, 1): (1, 1, 2)}.items():
        mesh = default_mesh(chains, checkpoints, layout)
        assert mesh.axis_names == ("step", "chain", "model")
        assert mesh.devices.shape == shape
        assert list(mesh.devices[0, 0]) == list(layout.mesh.devices[:, 0])
    assert layout_of(split(weights(), mesh_of(2, 2), dict.fromkeys(SPECS, P()))) is None


def test_meshes_that_do_not_fit_are_explained():
    with pytest.raises(ValueError, match="split over the mesh axis 'chain', which is that of chains; rename it"):
        run(split(weights(), mesh_of(1, 4, names=("data", "chain")), SPECS | {"bias": P(), "down": P("chain"), "up": P()}))
    mixed = split(weights(), mesh_of(1, 4)) | {"up": split(weights(), mesh_of(2, 2))["up"]}
    with pytest.raises(ValueError, match="weights 'up' and 'bias' lie on different meshes"):
        run(mixed)
    params = split(weights(), mesh_of(1, 4))
    with pytest.raises(ValueError, match=r"split over \['model'\], and mesh has the axes \('step', 'chain'\)"):
        run(params, mesh=mesh_of(1, 4, names=("step", "chain")))
    with pytest.raises(ValueError, match="of the weights alone; give it an axis 'chain' too"):
        run(params, mesh=mesh_of(4, names=("model",)))
    with pytest.raises(ValueError, match="beside 'model' of the weights, are known"):
        run(params, mesh=mesh_of(1, 4, 1, names=("chain", "model", "data")))
