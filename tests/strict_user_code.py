# pyright: strict
"""What a user writes after the README and the tutorial, for pyright in its strict mode (see `test_types`). It is not run."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jaxllc

Weights = dict[str, jax.Array]
Data = tuple[jax.Array, jax.Array]


def loss_fn(params: Weights, batch: Data) -> jax.Array:
    x, y = batch
    return jnp.square(x @ params["w"] - y) / 2


def norm(params: Weights) -> jax.Array:
    return jnp.sum(params["w"] ** 2)


def one_checkpoint(params: Weights, data: Data) -> tuple[float, list[str]]:
    key = jax.random.key(0)
    calibration = jaxllc.calibrate(loss_fn, params, data, key=key, localization=100.0, budget=5.0, maps=True)
    calibration.plot()[0].figure.savefig("maps.png")
    est = jaxllc.estimate(loss_fn, params, data, calibration.settings, key=key)
    again = jaxllc.estimate(loss_fn, params, data, calibration.settings, key=key, num_chains=4, extrapolate=True)
    est.plot()[0].figure.savefig("chains.png")
    est.save("one.zarr")
    finds = [f"{finding.code}: {finding.message}" for finding in est.findings]
    return est.llc + 2 * est.std_error + again.wbic + calibration.cost, [*calibration.reasons, *finds, str(est)]


def settings_of_all_samplers(data: Data) -> list[jaxllc.Settings]:
    samplers: list[jaxllc.Sampler] = [
        jaxllc.SGLD(1e-5, preconditioner=jaxllc.RMSProp()),
        jaxllc.SGLD(jaxllc.NamedSchedule("optax:cosine_decay_schedule", init_value=1e-5, decay_steps=1000), gradient=jaxllc.ControlVariate()),
        jaxllc.SGLD(None, burn_in_factor=4.0),
        jaxllc.SGHMC(1e-5),
        jaxllc.SGNHT(1e-5),
        jaxllc.AdaptiveHMC(),
        jaxllc.MALA(1e-3),
        jaxllc.HMC(1e-3),
        jaxllc.NUTS(1e-3),
        jaxllc.MCLMC(1e-3),
        jaxllc.BlackJAX("blackjax:barker", step_size=1e-3),
    ]
    nbeta = jaxllc.default_nbeta(len(data[0]))
    by_hand = [jaxllc.Settings(sampler=one, nbeta=nbeta, localization=100.0, batch_size=8, num_chains=4, num_draws=300, num_burn_in=100) for one in samplers]
    return [*by_hand, jaxllc.Settings.from_dict(by_hand[0].to_dict()), jaxllc.Settings.from_toml("settings.toml")]


def training_run(directory: Path, like: Weights, data: Data) -> jaxllc.Trajectory:
    key = jax.random.key(1)
    checkpoints = jaxllc.OrbaxCheckpoints(directory, like=like)
    settings = jaxllc.calibrate(loss_fn, checkpoints, data, key=key).settings
    traj = jaxllc.trajectory(loss_fn, checkpoints, data, settings, key=key, store="llc.zarr", probes={"norm": jaxllc.Probe(norm, every=50)})
    traj.plot()[0].figure.savefig("llc.png")
    last: Any = checkpoints[max(checkpoints)]
    jaxllc.trajectory(loss_fn, {0: like, 10: last}, jaxllc.InMemory.of(data, 8), key=key, free="w", reference_loss=1.0).save("some.zarr")
    runs = jaxllc.trajectory(loss_fn, {"seed0": checkpoints, "seed1": {0: like}}, jaxllc.Stream(data, 8), settings, key=key, part=(0, 2))
    runs.over_runs()
    return traj


def reports(traj: jaxllc.Trajectory) -> list[str]:
    codes = [finding.code for findings in traj.findings() for finding in findings]
    failures = [f"{place.step} of {place.run}: {why}" for place, why in traj.failures.items()]
    text = (traj.table().to_string(), traj.stages().to_string())  # pyright: ignore[reportUnknownMemberType]  # pandas's own
    return [str(traj), traj.settings.to_dict()["nbeta"], *codes, *failures, *text]


def parts_and_examples(params: Weights, data: Data) -> dict[str, float]:
    losses = jaxllc.Probe(loss_fn, data, every=50, reduce="covariance")
    parts = {"head": jaxllc.Heads("attention/*", 0), "neurons": jaxllc.Neurons({"mlp/kernel": -1}, range(4)), "rest": ~jaxllc.Paths("attention/*")}
    est = jaxllc.estimate(loss_fn, params, data, key=jax.random.key(2), components=parts, probes={"losses": losses, "norm": norm})
    for found in (jaxllc.influence(est, "losses"), jaxllc.loss_kernel(est, "losses"), jaxllc.susceptibilities(est, "losses")):
        found.plot(labels=["first", "second"])
    return {name: est.component(name).llc for name in est.components}


def read(path: str) -> float:
    result = jaxllc.open(path)
    return result.reference_loss or 0.0 if isinstance(result, jaxllc.Trajectory) else result.llc
