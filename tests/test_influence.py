"""Influence, loss kernels and susceptibilities of linear regression, whose posterior is Gaussian, against their closed forms."""

import sys
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_adaptive_hmc import linear_regression, squared_error

import jaxllc
from jaxllc import Slice

N, NUM = 200, 12
NBETA, LOCALIZATION = 30.0, 2.0
SCALES = np.array([2.0, 1.0, 0.5])
SETTINGS = jaxllc.Settings(jaxllc.AdaptiveHMC(), NBETA, LOCALIZATION, num_chains=16, num_draws=1200, num_burn_in=200)
COMPONENTS = {"first": Slice("*", 0), "others": Slice("*", np.s_[1:]), "all": None}
WHICH = {"first": [0], "others": [1, 2], "all": [0, 1, 2]}


@pytest.fixture(scope="module")
def problem():
    """Weights off the minimum, data, and the examples that are looked at: one of them twice."""
    weights, data, _ = linear_regression(SCALES, n=N)
    center = weights + jnp.array([0.1, -0.2, 0.3], jnp.float32)
    rows = np.r_[np.arange(NUM - 1), 0]
    return center, data, tuple(part[rows] for part in data)


@pytest.fixture(scope="module")
def estimate(problem):
    center, data, some = problem
    probes = {"losses": jaxllc.Probe(squared_error, some, every=2), "others": jaxllc.Probe(squared_error, tuple(x[20:25] for x in data), every=2)}
    return jaxllc.estimate(squared_error, center, data, SETTINGS, components=COMPONENTS, probes=probes, key=jax.random.key(0), progress=False)


class Gaussian:
    """The posterior of some of the weights, in float64: means, covariances and products of losses."""

    def __init__(self, problem, which):
        center, (x, y), self.some = problem
        x, y, center = (np.asarray(part, float) for part in (x, y, center))
        residual = y - x @ center
        x = x[:, which]
        precision = NBETA * x.T @ x / len(x) + LOCALIZATION * np.eye(len(which))
        self.covariance = np.linalg.inv(precision)
        self.mean = center.copy()
        self.mean[which] += self.covariance @ (NBETA * x.T @ residual / len(x))
        self.which, self.center = which, center

    def off(self, data):
        """Means and covariance of the residuals."""
        x, y = (np.asarray(part, float) for part in data)
        return x @ self.mean - y, x[:, self.which]

    def losses(self, data):
        mean, x = self.off(data)
        return mean**2 / 2 + np.einsum("ij,jk,ik->i", x, self.covariance, x) / 2

    def covariances(self, data, others):
        (mean, x), (other_mean, other_x) = self.off(data), self.off(others)
        cross = x @ self.covariance @ other_x.T
        return cross**2 / 2 + np.outer(mean, other_mean) * cross

    def at_center(self, data):
        x, y = (np.asarray(part, float) for part in data)
        return (x @ self.center - y) ** 2 / 2


def within(found, exact, errors=4.0):
    z = (found.value - exact) / found.std_error
    assert np.isfinite(z).all()
    assert np.abs(z).max() < errors + 1, np.abs(z).max()  # the largest of many
    assert (np.abs(z) < 2).mean() > 0.85


def of(found, name):
    return found.sel(component=name)


@pytest.mark.parametrize("name", COMPONENTS)
def test_influence_and_loss_kernel(problem, estimate, name):
    exact = Gaussian(problem, WHICH[name])
    covariance = exact.covariances(problem[2], problem[2])
    within(of(jaxllc.loss_kernel(estimate, "losses"), name), covariance)
    within(of(jaxllc.influence(estimate, "losses"), name), -covariance)
    scale = np.sqrt(np.diag(covariance))
    found = of(jaxllc.loss_kernel(estimate, "losses", correlation=True), name)
    np.testing.assert_allclose(np.diag(found.value), 1, rtol=1e-3)
    off = ~np.eye(NUM, dtype=bool)
    off[0, -1] = off[-1, 0] = False  # the same example
    z = ((found.value - covariance / np.outer(scale, scale)) / found.std_error)[off]
    assert np.abs(z).max() < 5
    others = tuple(part[20:25] for part in problem[1])
    within(of(jaxllc.influence(estimate, "losses", "others"), name), -exact.covariances(problem[2], others))


@pytest.mark.parametrize("whole", [None, "all"])
def test_susceptibilities(problem, estimate, whole):
    """By example and by group; the centre of the second kind is the posterior of all weights."""
    some = problem[2]
    groups = np.array(["even", "odd"])[np.arange(NUM) % 2]
    found, grouped = (jaxllc.susceptibilities(estimate, "losses", whole=whole, groups=labels) for labels in (None, groups))
    average = np.stack([(groups == "even") / (groups == "even").sum(), (groups == "odd") / (groups == "odd").sum()])
    everywhere = Gaussian(problem, WHICH["all"]).losses(some)
    for name, which in WHICH.items():
        law = Gaussian(problem, which)
        covariance, losses = law.covariances(some, some), law.losses(some)
        response = covariance.mean(0) - covariance.mean()
        if whole is not None:
            phi = losses.mean() - law.at_center(some).mean()
            response = response + phi * ((losses - losses.mean()) - (everywhere - everywhere.mean()))
        within(of(found, name), -response)
        within(of(grouped, name), -average @ response)
    assert found.data["value"].dims == ("component", "losses_dim_0")
    assert list(grouped.data["group"].values) == ["even", "odd"]


def test_an_example_that_is_there_twice_is_its_own_greatest_influence(estimate):
    correlation = np.abs(jaxllc.influence(estimate.component("all"), "losses", correlation=True).value)
    np.fill_diagonal(correlation, 0)
    assert correlation[0].argmax() == NUM - 1
    assert correlation[NUM - 1].argmax() == 0


def test_the_coefficient_of_other_data(problem, estimate):
    """Data-refined: of the examples that are looked at, in the posterior of all data."""
    found = estimate.llc_of("losses")
    for name, which in WHICH.items():
        law = Gaussian(problem, which)
        exact = NBETA * (law.losses(problem[2]).mean() - law.at_center(problem[2]).mean())
        one = found.sel(component=name)
        assert abs(float(one["llc"]) - exact) < 4 * float(one["std_error"])


def test_of_all_data_it_is_the_coefficient(problem):
    center, data, _ = problem
    probes = {"all_losses": jaxllc.Probe(squared_error, data, every=2)}
    est = jaxllc.estimate(squared_error, center, data, SETTINGS, probes=probes, key=jax.random.key(0), progress=False)
    found = est.llc_of("all_losses")
    assert abs(float(found["llc"]) - est.llc) < 2 * est.std_error


@pytest.mark.parametrize("correlation", [False, True])
def test_means_and_covariances_will_do(problem, correlation):
    """Of each chain, reduced as they come: the same answer as from all evaluations."""
    center, data, some = problem
    probes = {"whole": jaxllc.Probe(squared_error, some, every=2), "reduced": jaxllc.Probe(squared_error, some, every=2, reduce="covariance")}
    short = SETTINGS.replace(num_draws=200)
    est = jaxllc.estimate(
        squared_error, center, data, short, components={"a": Slice("*", 0), "all": None}, probes=probes, key=jax.random.key(0), progress=False
    )
    whole, reduced = (jaxllc.influence(est, name, correlation=correlation) for name in ("whole", "reduced"))
    scale = np.abs(whole.value).max()
    np.testing.assert_allclose(reduced.value, whole.value, atol=1e-4 * scale)
    np.testing.assert_allclose(reduced.std_error, whole.std_error, atol=1e-4 * scale)
    assert reduced.data.sizes == whole.data.sizes


def test_noise_is_told():
    """Examples that know one weight have no influence on those that know the other: what comes out is noise, and said to be."""
    rng = np.random.default_rng(0)
    x = np.zeros((N, 2), np.float32)
    x[::2, 0], x[1::2, 1] = rng.normal(size=N // 2), rng.normal(size=N // 2)
    data = x, rng.normal(size=N).astype(np.float32)
    first, second = (tuple(part[start : 2 * NUM : 2] for part in data) for start in (0, 1))
    probes = {"first": jaxllc.Probe(squared_error, first, every=2), "second": jaxllc.Probe(squared_error, second, every=2)}
    est = jaxllc.estimate(squared_error, jnp.zeros(2), data, SETTINGS, probes=probes, key=jax.random.key(0), progress=False)
    within(none := jaxllc.influence(est, "first", "second"), np.zeros((NUM, NUM)))
    assert [finding.code for finding in none.findings[0]] == ["noise"]
    assert not jaxllc.influence(est, "first").findings[0]


def test_no_noise_where_there_is_none(estimate):
    found = jaxllc.influence(estimate, "losses")
    assert (found.reliability > 0.9).all()
    assert all("noise" not in [finding.code for finding in some] for some in found.findings)


@pytest.mark.parametrize("where", ["along_chains/losses", "posterior/llc"], ids=["not finite", "out of proportion"])
def test_chains_that_diverged_are_left_out(estimate, where):
    """Whether their losses are not finite, or finite and far beyond what the number of weights allows."""
    tree = estimate.component("all").data.copy(deep=True)
    tree[where].values[3] = np.nan
    if where == "posterior/llc":
        tree["along_chains/losses"].values[3] *= 1e6
    gone, whole = jaxllc.Estimate(tree), estimate.component("all")
    for verb in (jaxllc.influence, jaxllc.susceptibilities):
        found, before = verb(gone, "losses"), verb(whole, "losses")
        assert np.isfinite(found.value).all()
        assert np.abs(found.value - before.value).max() < 5 * np.nanmax(before.std_error)
    if where == "posterior/llc":
        assert abs(float(gone.llc_of("losses")["llc"]) - float(whole.llc_of("losses")["llc"])) < 3 * float(whole.llc_of("losses")["std_error"])


def test_no_chain_at_all(estimate):
    """Everything diverged: no numbers, and no warning."""
    tree = estimate.component("all").data.copy(deep=True)
    tree["posterior/llc"].values[:] = np.nan
    for verb in (jaxllc.influence, jaxllc.susceptibilities):
        assert np.isnan(verb(jaxllc.Estimate(tree), "losses").value).all()


def test_what_does_not_vary_has_no_influence_and_no_noise(problem):
    """A component that the examples do not hear: exactly nothing, which is known; its correlations are no numbers, and are drawn all the same."""
    center, data, some = problem
    deaf = tuple(part.copy() for part in some)
    deaf[0][:, 0] = 0
    deaf[0][2] = 0  # and one example that no weight moves
    probes = {"losses": jaxllc.Probe(squared_error, deaf, every=4)}
    short = SETTINGS.replace(num_draws=200)
    est = jaxllc.estimate(squared_error, center, data, short, components=COMPONENTS, probes=probes, key=jax.random.key(0), progress=False)
    found = jaxllc.influence(est, "losses").sel(component="first")
    assert (found.value == 0).all()
    assert all("noise" not in [finding.code for finding in some] for some in found.findings)
    correlation = jaxllc.influence(est, "losses", correlation=True)
    assert np.isnan(correlation.sel(component="all").value[2]).all()


def test_the_diagonal_counts_where_rows_and_columns_are_other_probes(estimate, problem):
    """Two probes of one length: an element of the one and its neighbour in the other are not the same example."""
    center, data, some = problem
    probes = {"one": jaxllc.Probe(squared_error, some, every=4), "two": jaxllc.Probe(squared_error, tuple(part[::-1] for part in some), every=4)}
    est = jaxllc.estimate(squared_error, center, data, SETTINGS.replace(num_draws=200), probes=probes, key=jax.random.key(0), progress=False)
    found = jaxllc.influence(est, "one", "two")
    value, error = found.value.astype(float), found.std_error.astype(float)
    assert found.reliability == pytest.approx(1 - (error**2).mean() / (value**2).mean())


def test_rows_come_in_stretches(estimate, monkeypatch):
    whole = jaxllc.influence(estimate, "losses")
    monkeypatch.setattr(sys.modules["jaxllc.covariance"], "STRETCH_BYTES", 8 * 16 * NUM * 5)
    np.testing.assert_allclose(jaxllc.influence(estimate, "losses").value, whole.value, rtol=1e-6)


def test_no_memory_but_that_of_the_answer(monkeypatch):
    """Of 1500 × 1500 values and errors; a chain's covariances of all at once would take four times as much."""
    rng = np.random.default_rng(0)
    data = rng.normal(size=(1500, 3)).astype(np.float32), rng.normal(size=1500).astype(np.float32)
    short = SETTINGS.replace(num_draws=32, num_chains=8, num_burn_in=64, batch_size=None)
    probes = {"losses": jaxllc.Probe(squared_error, data, every=8)}
    est = jaxllc.estimate(squared_error, jnp.zeros(3), data, short, probes=probes, key=jax.random.key(0), progress=False)
    monkeypatch.setattr(sys.modules["jaxllc.covariance"], "STRETCH_BYTES", 2**20)
    _ = est.findings  # what it loads counts elsewhere
    tracemalloc.start()
    found = jaxllc.influence(est, "losses")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    answer = found.value.nbytes + found.std_error.nbytes
    assert answer == 2 * 4 * 1500**2
    assert peak < 1.5 * answer


def test_over_training_and_by_token(problem):
    """A probe of two axes, along the chains of two checkpoints."""
    center, data, some = problem
    tokens = tuple(part[:6].reshape(2, 3, *part.shape[1:]) for part in some)
    probes = {"tokens": jaxllc.Probe(lambda w, batch: (batch[0] @ w - batch[1]) ** 2 / 2, tokens, every=4)}
    short = SETTINGS.replace(num_draws=200)
    traj = jaxllc.trajectory(squared_error, {1: center, 2: center + 0.1}, data, short, probes=probes, key=jax.random.key(0), progress=False)
    found = jaxllc.influence(traj, "tokens")
    assert found.data["value"].dims == ("step", "element", "element_other")
    assert found.value.shape == (2, 6, 6)
    assert len(found.findings) == 2
    assert jaxllc.susceptibilities(traj, "tokens").data["value"].dims == ("step", "tokens_dim_0", "tokens_dim_1")
    with pytest.raises(ValueError, match="several checkpoints"):
        found.plot()
    one = found.sel(step=2)
    assert one.findings == found.findings[1:]
    assert one.reliability == found.reliability[1]


WRONG = {
    "no probe": (dict(examples="nothing"), KeyError, "no probe 'nothing'"),
    "reduced": (dict(examples="reduced"), ValueError, "is not kept along the chains"),
    "at the checkpoint alone": (dict(examples="once"), ValueError, "is not kept along the chains"),
    "other iterations": (dict(examples="often", observables="seldom"), ValueError, "'often' and 'seldom' are evaluated at other iterations"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_probes_are_named(problem, wrong):
    center, data, some = problem
    arguments, error, message = WRONG[wrong]
    probes = {"reduced": jaxllc.Probe(squared_error, some, every=4, reduce="mean"), "once": jaxllc.Probe(squared_error, some)}
    probes |= {name: jaxllc.Probe(squared_error, some, every=every) for name, every in (("often", 2), ("seldom", 4))}
    est = jaxllc.estimate(squared_error, center, data, SETTINGS.replace(num_draws=16), probes=probes, key=jax.random.key(0), progress=False)
    with pytest.raises(error, match=message):
        jaxllc.influence(est, **arguments)


def test_wrong_components_and_groups_are_named(estimate):
    with pytest.raises(KeyError, match="no component 'whole'"):
        jaxllc.susceptibilities(estimate, "losses", whole="whole")
    with pytest.raises(ValueError, match="groups has 2 labels"):
        jaxllc.susceptibilities(estimate, "losses", groups=["a", "b"])
