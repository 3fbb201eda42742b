"""The zoo and its references where the truth is known, and what the report says of made-up lines."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import calibration, report_calibration, whitened_hmc, zoo, zoo_references
from jaxllc.theory import normal_crossing_mean, quadratic_llc


def test_the_zoo_has_what_was_asked_for():
    assert len(zoo.PROBLEMS) >= 24
    families = ("quadratic", "diabetes", "cancer", "softmax", "crossing", "cusp", "reduced-rank", "deep-linear", "relu", "superposition", "tanh", "modular")
    families += ("mlp", "cnn", "transformer1", "transformer2", "gpt")
    assert all(any(name.startswith(family) for name in zoo.PROBLEMS) for family in families)


def test_quadrature_is_that_of_the_theory():
    """And in three dimensions that of one of them, whose weight alone is in the loss."""
    nbeta = 1000 / np.log(1000)
    for powers in ((1, 1), (1, 2)):
        exact = normal_crossing_mean(powers, nbeta, 1.0)
        assert zoo.quadrature_llc(lambda w, k=powers: w[0] ** (2 * k[0]) * w[1] ** (2 * k[1]), 2, nbeta, 1.0, 601) == pytest.approx(exact, rel=1e-8)
    assert zoo.quadrature_llc(lambda w: w[2] ** 2 + 0 * w[1], 3, nbeta, 4.0, 101) == pytest.approx(nbeta / (4.0 + 2 * nbeta), rel=1e-6)


def test_the_gaussian_reference_is_exact():
    """Away from the minimum too: the mean is then not w*."""
    x, center = np.diag([2.0, 0.5, 0.1]) * 3**0.5, np.asarray([0.3, -0.2, 1.0])
    y = np.asarray([0.4, 0.1, 0.2])
    got = zoo.gaussian_llc((zoo.linear_loss, center, (x, y)), 50.0, 2.0)
    curvature, gradient = np.asarray([4.0, 0.25, 0.01]), x.T @ (x @ center - y) / 3
    mean = -50 * gradient / (50 * curvature + 2)
    assert got == pytest.approx(50 * np.sum(gradient * mean + curvature * mean**2 / 2 + curvature / (50 * curvature + 2) / 2))
    flat = zoo.gaussian_llc((zoo.linear_loss, np.linalg.solve(x, y), (x, y)), 50.0, 2.0)
    assert flat == pytest.approx(float(quadratic_llc(curvature, 50.0, 2.0)))


def test_gibbs_sampling_of_one_layer_is_the_gaussian():
    """A net of one layer is a linear regression for each output."""
    loss, params, (x, y) = zoo.linear_net((4, 3), 2, n=300)
    found = zoo.by_gibbs((loss, params, (x, y)), 50.0, 2.0, 4000)
    exact = sum(zoo.gaussian_llc((loss, params[0][:, i], (x, y[:, i])), 50.0, 2.0) for i in range(3))
    assert abs(found["llc"] - exact) < 4 * found["std_error"] < 0.1 * exact


def test_reference_chains_find_the_exact_value():
    """On a quadratic of condition number 10⁴ from weights that are no minimum of it, and on a normal crossing."""
    made = zoo.regression((30.0, 1.0, 0.3), n=200)
    moved = (made[0], made[1] + jnp.asarray([0.01, 0.3, 0.3]), made[2])
    crossing = zoo.make("crossing-22")
    nbeta = zoo_references.default_setting(crossing)["nbeta"]
    length = whitened_hmc.Length(draws=2000, seconds=60.0)
    for found, exact in (
        (zoo_references.chains(moved, 40.0, 2.0, length), zoo.gaussian_llc(moved, 40.0, 2.0)),
        (zoo_references.chains(crossing, nbeta, 1.0, length), normal_crossing_mean((1, 1), nbeta, 1.0)),
    ):
        assert abs(found["llc"] - exact) < 4 * found["std_error"] < 0.2 * abs(exact)
        assert max(found["rhat"], found["rhat_distance"]) < whitened_hmc.MAX_RHAT


def test_rhat_sees_a_chain_that_drifts():
    draws = np.random.default_rng(0).normal(size=(400, 8))
    assert whitened_hmc.rhat(draws) < 1.01
    drifting = draws.copy()
    drifting[:, 0] += np.linspace(0, 3, 400)
    assert whitened_hmc.rhat(drifting) > 1.03


def test_a_reference_is_made_once_for_a_setting_and_anew_for_other_weights(tmp_path, monkeypatch):
    path = tmp_path / "references.jsonl"
    first = zoo_references.reference("quadratic-1e2", 200.0, 1.0, path)
    assert zoo_references.reference("quadratic-1e2", 200.0, 1.0, path) == first
    assert zoo_references.reference("quadratic-1e2", 200.0, 5.0, path)["llc"] < first["llc"]
    assert len(zoo_references.lines(path)) == 2
    loss, params, data = zoo.make("quadratic-1e2")
    monkeypatch.setattr(zoo, "make", lambda name: (loss, params + 0.1, data))
    assert zoo_references.reference("quadratic-1e2", 200.0, 1.0, path)["llc"] != first["llc"]


def line(problem, llc, std_error=0.1, findings=(), seconds=10.0, key=0, **more):
    codes = [[code, "why"] for code in findings]
    common = {"problem": problem, "key": key, "settings": "default", "llc": llc, "std_error": std_error, "findings": codes, "seconds": seconds}
    return common | {"nbeta": 100.0, "localization": 1.0} | more


def own(problem, llc, **more):
    return {"problem": problem, "nbeta": 100.0000001, "localization": 1.0, "llc": llc, "std_error": 0.0, "by": "exact"} | more


def test_silent_failures_and_coverage_of_made_up_lines():
    lines = [
        line("right", 10.1), line("right", 9.9, key=1, calibration_seconds=2.0),  # near, covered
        line("wrong", 5.0),  # silent
        line("told", 5.0, findings=["not-mixed"]),
        line("noisy", 8.0, std_error=0.8),  # a fifth off, but within three errors; not covered
        line("close", 9.2),  # eight errors, but within a tenth
        line("none", None, std_error=None),  # no number, no finding: silent
        line("slow", 10.0, seconds=200.0),
        line("elsewhere", 10.0, localization=7.0),  # no reference there
        line("unmixed", 5.0),  # compared with nothing
        {"problem": "failed", "key": 0, "settings": "default", "error": "ValueError: no", "seconds": 1.0},
    ]  # fmt: skip
    references = [own(name, 10.0) for name in ("right", "wrong", "told", "noisy", "close", "none", "slow", "elsewhere")] + [
        own("unmixed", 10.0, rhat=1.2, by="Gibbs sampling")
    ]
    found = report_calibration.summary(report_calibration.judged(lines, references))
    assert (found["problems"], found["lines"], found["compared"]) == (10, 11, 8)
    assert found["silent_problems"] == ["wrong", "none"]
    assert (found["clean"], found["covered"]) == (6, 3)
    assert found["solved"] == 6  # right, wrong, noisy, close, elsewhere, unmixed
    assert found["solved_and_near"] == 3
    assert (found["calibrations"], found["over_calibration_share"]) == (1, 0)
    text = report_calibration.text(lines, references)
    assert "| right | 100, 1 | 10 | 10.10 ± 0.10, 9.90 ± 0.10 | +1%, -1% |" in text
    assert "error" in text


def test_the_short_table_has_the_first_key_before_and_after():
    """Each with the reference of its own settings, and nothing where nothing was measured."""
    lines = [
        line("softmax", 5.0, settings="sgld", findings=["not-mixed"]),
        line("softmax", 8.0, settings="default", localization=100.0),
        line("softmax", 9.0, settings="default", key=1),
        line("crossing-22", None, settings="default"),
    ]
    references = [own("softmax", 10.0), own("softmax", 8.1) | {"localization": 100.0}]
    text = report_calibration.before_and_after(lines, references)
    assert text.splitlines()[2:] == ["| softmax | 10 | 5.00 ± 0.10 (not-mixed) | 8.1 | 8.00 ± 0.10 | 10 |", "| crossing-22 |  |  |  | – | 10 |"]


def test_a_run_continues_where_it_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(zoo_references, "PATH", tmp_path / "references.jsonl")
    calls = []
    monkeypatch.setattr(calibration, "measure", lambda name, key, settings: calls.append((name, key)) or line(name, 1.0, key=key))
    monkeypatch.setattr(zoo_references, "reference", lambda *_: None)
    path = tmp_path / "calibration.jsonl"
    calibration.run(path, ["quadratic-1e2", "cusp"], range(1), "default")
    calibration.run(path, ["quadratic-1e2", "cusp"], range(2), "default")
    assert calls == [("quadratic-1e2", 0), ("cusp", 0), ("quadratic-1e2", 1), ("cusp", 1)]
    assert [json.loads(text)["key"] for text in path.read_text().splitlines()] == [0, 0, 1, 1]


def test_an_error_is_a_line(monkeypatch):
    def refuse(*_, **__):
        raise ValueError("no way")

    monkeypatch.setattr(calibration.jaxllc, "estimate", refuse)
    assert calibration.measure("quadratic-1e2", 0, "default")["error"] == "ValueError: no way"
    assert jax.config.jax_enable_x64 is False
