"""How many checkpoints run in one program."""

import math

import jax
import numpy as np
import pytest
from problems import Quadratic, quadratic_loss
from trajectories import RUN, draws, follow

import jaxllc
from jaxllc import grouping, placement
from jaxllc.grouping import LEAST_GROUPS, even_size, fitting_checkpoints, suitable_group_size
from jaxllc.plan import make_plan

PROBLEM = Quadratic()
SETTINGS = jaxllc.Settings(jaxllc.SGLD(1e-3), nbeta=50.0, localization=3.0, num_chains=4, num_draws=60, num_burn_in=10)
FASTEST_OF = {"no other": {}, "four times": {8: 0.9, 16: 0.8, 32: 0.79}, "a quarter": {2: 0.9, 1: 0.8}, "eight times": {8: 0.9, 16: 0.8, 32: 0.7}}


def plan(mesh=None):
    return make_plan(quadratic_loss, {"w": PROBLEM.params}, PROBLEM.data, SETTINGS, key=jax.random.key(0), free=None, probes={}, mesh=mesh)


@pytest.fixture
def timed(monkeypatch):
    """Four checkpoints suit the machine; the sizes that were timed, at the seconds that are set."""
    sizes, seconds = [], {}

    def table(plan, params, size):
        sizes.append(size)
        return seconds.get(size, 1.0)

    monkeypatch.setattr(grouping, "_seconds", table)
    monkeypatch.setattr(grouping, "resident_checkpoints", lambda num_weights, num_chains: 4)
    return sizes, seconds


@pytest.mark.parametrize(("name", "size"), [("no other", 4), ("four times", 16), ("a quarter", 1), ("eight times", 32)])
def test_the_fastest_size_is_taken(name, size, timed):
    """Twice the size as long as it saves a twentieth, else half of it."""
    timed[1].update(FASTEST_OF[name])
    assert suitable_group_size(plan(), PROBLEM.params, 10_000) == size


def test_a_short_run_is_not_timed(timed):
    """Also not one whose groups, if larger, would be few."""
    assert suitable_group_size(plan(), PROBLEM.params, 4 * LEAST_GROUPS - 1) == 4
    assert suitable_group_size(plan(), PROBLEM.params, 3) == 3
    assert timed[0] == []


def test_a_run_has_many_groups_whatever_is_fastest(timed):
    """So that a stop loses little."""
    timed[1].update(FASTEST_OF["eight times"])
    assert suitable_group_size(plan(), PROBLEM.params, 16 * LEAST_GROUPS) == 16


def test_a_mesh_of_checkpoints_divides_the_group(timed, monkeypatch):
    """Also a group that is halved, or cut by memory."""
    mesh = jax.make_mesh((4, 1), ("step", "chain"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    timed[1].update({2: 0.1, 1: 0.1})
    monkeypatch.setattr(grouping, "fitting_checkpoints", lambda plan, params: 7)
    assert suitable_group_size(plan(mesh), PROBLEM.params, 10_000) == 4


def test_a_group_fits_half_of_the_free_memory(monkeypatch):
    """Twice the memory holds twice the checkpoints; one is always tried."""
    monkeypatch.setattr(grouping, "free_on_host", lambda: 10**8)
    some = fitting_checkpoints(plan(), PROBLEM.params)
    monkeypatch.setattr(grouping, "free_on_host", lambda: 2 * 10**8)
    assert abs(fitting_checkpoints(plan(), PROBLEM.params) - 2 * some) <= 1
    monkeypatch.setattr(grouping, "free_on_host", lambda: 10)
    assert fitting_checkpoints(plan(), PROBLEM.params) == 1
    monkeypatch.setattr(grouping, "free_on_host", lambda: 4 * 10**4)
    assert suitable_group_size(plan(), PROBLEM.params, 100) < 100


def test_the_memory_of_an_accelerator_counts_beside_that_of_the_host(monkeypatch):
    """The lesser of both."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(grouping, "free_on_host", lambda: 10**12)
    monkeypatch.setattr(grouping, "free_on_device", lambda: 10**6)
    here = plan()
    size, bytes_of_weights = here.facts["num_weights"], 4 * here.facts["num_weights"]
    assert size == sum(leaf.size for leaf in jax.tree.leaves(PROBLEM.params))
    chains_of_device = SETTINGS.num_chains / here.devices.shape["chain"]
    expected = 0.5 * 10**6 / (2 * bytes_of_weights + 4 * chains_of_device * bytes_of_weights)
    assert fitting_checkpoints(here, PROBLEM.params) == int(expected)
    monkeypatch.setattr(grouping, "free_on_host", lambda: 10**5)
    assert fitting_checkpoints(here, PROBLEM.params) < expected


def test_memory_that_a_process_holds_is_not_free(monkeypatch):
    """Of an accelerator what is in use; of the host what the system says, or nothing where it says nothing."""
    stats = {"bytes_limit": 1000, "bytes_in_use": 300}
    monkeypatch.setattr(jax, "local_devices", lambda: [type("Device", (), {"memory_stats": lambda self: stats})()])
    assert placement.free_on_device() == 700
    assert 2**20 < placement.free_on_host() < 2**60 or not placement.Path("/proc/meminfo").exists()


def test_a_container_has_less_than_its_host(monkeypatch, tmp_path):
    """Files that the kernel would drop count as free."""
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.stat").write_text("anon 1000\ninactive_file 1000000\n")
    monkeypatch.setattr(placement, "Path", lambda path: tmp_path if str(path) == "/sys/fs/cgroup" else tmp_path / "none")
    assert placement.free_on_host() == 3_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert placement.free_on_host() == placement.sys.maxsize


@pytest.mark.parametrize(("count", "most", "together", "size"), [(10, 4, 1, 4), (9, 4, 1, 3), (3, 8, 1, 3), (5, 4, 2, 4), (5, 8, 4, 8), (1, 1, 2, 2)])
def test_groups_are_even(count, most, together, size):
    """And filled up to what a mesh of checkpoints divides."""
    assert even_size(count, most, together) == size


@pytest.mark.parametrize("group_size", [None, 3])
def test_a_mesh_of_checkpoints_takes_any_number_of_them(group_size):
    """Five on four devices, and three in a group."""
    mesh = jax.make_mesh((4, 1), ("step", "chain"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    np.testing.assert_allclose(draws(follow(mesh=mesh, group_size=group_size)), draws(follow()), rtol=1e-4, atol=1e-4)


def test_a_resumed_run_keeps_its_group_size(tmp_path, monkeypatch):
    """So that its programs, and with them its numbers, are the same to the last bit; one that is asked for counts for this call."""
    store = tmp_path / "llc.zarr"
    monkeypatch.setattr("jaxllc.job.suitable_group_size", lambda plan, params, count: 2)
    first = dict(list(RUN.items())[:3])
    assert follow(first, store=store).data.attrs["group_size"] == 2
    monkeypatch.setattr("jaxllc.job.suitable_group_size", lambda plan, params, count: math.nan)
    whole = follow(store=store)
    assert whole.data.attrs["group_size"] == 2
    assert (draws(whole) == draws(follow(group_size=2))).all()
    follow({**RUN, 1000: PROBLEM.params}, store=store, group_size=3)


@pytest.mark.parametrize("sampler", [jaxllc.SGLD(1e-3), jaxllc.HMC(0.01, 3)], ids=["minibatches", "all data"])
def test_a_timed_run_is_of_the_sampler(sampler):
    """And leaves out the second set of chains of an extrapolation."""
    settings = SETTINGS.replace(sampler=sampler, extrapolate="nbeta", batch_size=None)
    whole = make_plan(quadratic_loss, {"w": PROBLEM.params}, PROBLEM.data.arrays, settings, key=jax.random.key(0), free=None, probes={}, mesh=None)
    assert grouping._seconds(whole, PROBLEM.params, 2) > 0
