"""What a result says of itself in a terminal and in a notebook: short, escaped, and the numbers of its table."""

import re

import jax
import pytest
from problems import quadratic_loss
from trajectories import PROBLEM, RUNS, SHORT, follow

import jaxllc
from jaxllc.tables import LINES, as_html


def test_a_trajectory_is_one_line():
    traj = follow(RUNS)
    for text in (str(traj), repr(traj)):
        assert text.startswith("5 checkpoints, steps 0 to 40; 3 runs: λ̂ from ")
        assert "\n" not in text
    assert f"not-mixed {sum('not-mixed' in codes for codes in traj.table()['findings'])}" in str(traj)


def test_a_notebook_shows_the_table():
    traj = follow(RUNS)
    page = traj._repr_html_()
    assert [f"{value:.3f}" for value in traj.table()["llc"]] == re.findall(r"<td>(-?\d+\.\d{3})</td>\s*<td>\d", page)[: len(traj.table())]
    assert "seed 7" in page


def test_an_estimate_and_its_components():
    est = jaxllc.estimate(quadratic_loss, PROBLEM.params, PROBLEM.data, key=jax.random.key(0), **SHORT)
    assert repr(est) == str(est)
    assert f"{est.llc:.3f}" in est._repr_html_()
    parts = jaxllc.estimate(quadratic_loss, PROBLEM.params, PROBLEM.data, key=jax.random.key(0), components={"<a>": "a", "all": None}, **SHORT)
    assert "&lt;a&gt;" in parts._repr_html_()
    assert "<a>" not in parts._repr_html_()


def test_a_long_table_is_cut_and_the_head_is_escaped():
    table = follow(RUNS).table()
    long = table.sample(3 * LINES, replace=True, random_state=0)
    assert as_html("<b>", long).count("<tr") < LINES + 10
    assert as_html("<b>", long).startswith("<p>&lt;b&gt;</p>")


def test_plots_of_arviz_take_results_as_they_are(tmp_path):
    """Those of chains and of ranks, of an estimate and of a step of a trajectory."""
    try:
        import arviz_plots as azp
    except (ImportError, AttributeError):  # arviz-plots 0.8 reads a module that matplotlib 3.11 no longer has
        pytest.skip("no arviz-plots that works with this matplotlib")
    est = jaxllc.estimate(quadratic_loss, PROBLEM.params, PROBLEM.data, key=jax.random.key(0), **SHORT)
    for tree in (est.data, follow().data.sel(step=20)):
        for plot in (azp.plot_trace, azp.plot_rank, azp.plot_dist):
            plot(tree, var_names=["llc"], backend="matplotlib").savefig(tmp_path / "plot.png")
            assert (tmp_path / "plot.png").stat().st_size > 5000
