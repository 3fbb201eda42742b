"""The comparison of components: what counts as agreement, what a job costs, and which weights a name selects."""

import json

import numpy as np
import pytest

numbers = pytest.importorskip("benchmarks.component_numbers")
nets = pytest.importorskip("benchmarks.component_nets")
tables = pytest.importorskip("benchmarks.report_components")


def noisy(rng, truth, error):
    return truth + error * rng.normal(size=truth.shape), np.full(truth.shape, error)


def test_the_same_values_with_other_noise_agree():
    """Of independent noises of known size: the correlation is the root of the product of the reliabilities, the slope is one."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=20_000)
    found = numbers.compared(*noisy(rng, truth, 0.5), *noisy(rng, truth, 1.0))
    assert found["rms_z"] == pytest.approx(1, abs=0.02)
    assert found["share"] == pytest.approx(0.954, abs=0.01)
    assert found["reliability"] == pytest.approx(0.8, abs=0.02)
    assert found["other_reliability"] == pytest.approx(0.5, abs=0.02)
    assert found["correlation"] == pytest.approx(np.sqrt(0.8 * 0.5), abs=0.02)
    assert found["slope"] == pytest.approx(1, abs=0.04)


def test_values_of_another_scale_do_not():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=20_000)
    found = numbers.compared(*noisy(rng, 1.5 * truth, 0.1), *noisy(rng, truth, 0.1))
    assert found["slope"] == pytest.approx(1.5, abs=0.02)
    assert found["rms_z"] > 3


def test_each_pair_of_a_matrix_counts_once():
    rng = np.random.default_rng(0)
    value, other = rng.normal(size=(2, 3, 3))
    lower = np.tril(np.full((3, 3), 100.0), -1)
    error = np.ones((3, 3))
    assert numbers.compared(value + lower, error, other, error) == numbers.compared(value, error, other, error)


def test_coefficients_are_compared_before_the_bias_is_taken_off():
    ours = {"llc": 4.0, "std_error": 0.3, "step_bias": 1.0, "on_all": 5.4}
    line = numbers.coefficients("l0h1", ours, np.array([4.0, 5.0, 6.0]), np.array([5.0, 5.0, 5.0]), 3.5)
    assert line["uncorrected"] == 5.0
    assert line["theirs"] == 5.0
    assert line["their_error"] == pytest.approx(1 / np.sqrt(3))
    assert line["z"] == 0
    assert line["z_on_all"] == pytest.approx(0.4 / 0.3)
    assert "3.50" in tables.coefficients([line])
    assert numbers.z_score(2.0, 3.0, 7.0, 4.0) == -1


def test_a_job_is_calls_and_steps():
    """Three components of 1 ms against those of 2 ms and 4 ms, with calls of 0.5 s a chain: medians over turns, and the ratio within each."""
    ours = [{"step": [2e-3, 1e-3], "call": [0.0, 0.0]}, {"step": [4e-3, 2e-3], "call": [0.0, 0.0]}, {"step": [2e-3, 1e-3], "call": [0.0, 0.0]}]
    theirs = [[{"step": [8e-3 * x, cost * x], "call": [1.0, 0.5]} for x in (1, 2, 1)] for cost in (2e-3, 4e-3)]
    found = {"turns": {"3": ours, "a": theirs[0], "b": theirs[1], "gradient": ours}, "first": {"3": [0.0, 0.25]}}
    row = numbers.speed_row(found, 3, ("a", "b"), checkpoints=2, job={"chains": 4, "steps": 10}, chains=2)
    assert row["cpu"]["ratio"] == pytest.approx(3)
    assert row["wall"]["ratio"] == pytest.approx(4)
    assert row["cpu"]["ours_us"] == pytest.approx(1000)
    assert row["cpu"]["first_call"] == pytest.approx(0.25 * 6)
    assert row["our_job"] == pytest.approx(1.5 + 6 * 40 * 1e-3)
    assert row["their_job"] == pytest.approx(6 * (2 * 0.5 + 40 * 3e-3))
    assert row["job_ratio"] == pytest.approx(row["their_job"] / row["our_job"])
    assert "3 × 2" in tables.speed([row])


def test_names_of_components():
    """The parts of the heads are disjoint and make up all attention; a head is its four parts."""
    shapes = {f"layers_{layer}/{name}": (nets.WIDTH, nets.HEADS, nets.WIDTH // nets.HEADS) for layer in range(2) for name in ("query", "key", "value")}
    shapes |= {f"layers_{layer}/output": (nets.HEADS, nets.WIDTH // nets.HEADS, nets.WIDTH) for layer in range(2)}

    def counted(names):
        return {leaf: sum(np.broadcast_to(nets.component(name).mask(leaf, shape), shape).astype(int) for name in names) for leaf, shape in shapes.items()}

    assert all((count == 1).all() for count in counted(nets.parts()).values())
    assert all((count == 1).all() for count in counted(nets.heads()).values())
    one, its_parts = counted(["l1h2"]), counted([f"l1h2 {name}" for name in nets.MATRICES])
    assert all(np.array_equal(one[leaf], its_parts[leaf]) for leaf in shapes)
    assert one["layers_1/query"][:, 2].all()
    assert not one["layers_0/query"].any()
    assert nets.component("all") is None


def test_the_file_holds_the_weights_by_name(tmp_path):
    params = {"layers_0": {"query": np.ones((2, 1, 2), np.float32)}, "embedding": np.zeros((3, 2), np.float32)}
    nets.write(tmp_path / "net.npz", params, np.zeros((4, 5), np.uint8), {"nbeta": 2.0})
    with np.load(tmp_path / "net.npz") as stored:
        assert set(stored.files) == {"layers_0/query", "embedding", "tokens", "settings"}
        assert stored["tokens"].dtype == np.int64
        assert json.loads(str(stored["settings"])) == {"nbeta": 2.0}
