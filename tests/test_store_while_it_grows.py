"""A store that someone reads while it is written, and results that were saved and go on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxllc

X = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
RUN = dict(num_draws=40, num_burn_in=10, num_chains=4, progress=False, sampler=jaxllc.SGLD(1e-3), nbeta=50.0)


def loss(w, batch):
    return ((batch - w[None]) ** 2).sum(-1) / 2


def checkpoints(*steps):
    return {step: jnp.full(3, 1.0 / step) for step in steps}


def follow(steps, path, **options):
    return jaxllc.trajectory(loss, checkpoints(*steps), X, key=jax.random.key(0), store=path, **(RUN | options))


def test_what_was_opened_stays_what_it_was_when_the_store_grows(tmp_path):
    """Steps before, between and after the old ones; seen to fail where the new layout sorted its steps, so that the old indices meant other ones."""
    before = follow((10, 20, 30), tmp_path / "s").table()
    opened = jaxllc.open(tmp_path / "s")
    follow((5, 10, 15, 20, 30, 40), tmp_path / "s")
    np.testing.assert_allclose(opened.table().llc, before.llc, rtol=1e-6)
    grown = jaxllc.open(tmp_path / "s").table()
    assert list(grown.index) == [5, 10, 15, 20, 30, 40]
    np.testing.assert_allclose(grown.llc[before.index], before.llc, rtol=1e-6)


def test_a_saved_trajectory_goes_on(tmp_path):
    """The weights that it was made of are not known, and nothing is said of them."""
    traj = jaxllc.trajectory(loss, checkpoints(10, 20), X, key=jax.random.key(0), **RUN)
    longer = follow((10, 20, 30), tmp_path / "whole").table()
    store = follow((10, 20), tmp_path / "s")
    store.save(tmp_path / "saved")
    np.testing.assert_allclose(follow((10, 20, 30), tmp_path / "saved").table().llc, longer.llc, rtol=1e-5)
    np.testing.assert_allclose(traj.table().llc, longer.llc[:2], rtol=1e-5)


def test_what_was_not_written_is_not_saved(tmp_path):
    runs = {"a": checkpoints(10, 20), "b": checkpoints(10, 20)}
    jaxllc.trajectory(loss, runs, X, key=jax.random.key(0), store=tmp_path / "s", **RUN)
    import zarr

    zarr.open_group(tmp_path / "s", mode="r+")["done"][1, 1] = 0
    opened = jaxllc.open(tmp_path / "s")
    opened.save(tmp_path / "saved")
    again = jaxllc.open(tmp_path / "saved")
    assert list(again.table().index) == list(opened.table().index) == [("a", 10), ("a", 20), ("b", 10)]
    assert len(again.findings()) == 3


def test_a_probe_cannot_take_the_name_of_a_column(tmp_path):
    with pytest.raises(ValueError, match="'acceptance_rate' has the name of something else"):
        follow((10,), tmp_path / "s", probes={"acceptance_rate": jnp.sum})


def test_a_reference_loss_given_later_is_in_the_store(tmp_path):
    follow((10, 20), tmp_path / "s")
    later = follow((10, 20), tmp_path / "s", reference_loss=1e-3)
    opened = jaxllc.open(tmp_path / "s")
    assert opened.reference_loss == later.reference_loss == 1e-3
    assert list(opened.table().findings) == list(later.table().findings)
