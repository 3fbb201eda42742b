"""Pictures show the numbers of their result."""

import jax
import matplotlib as mpl
import numpy as np
from problems import Quadratic, quadratic_loss, shifted

import jaxllc
from jaxllc import diagnostics

mpl.use("agg")


def test_a_trajectory_is_drawn():
    problem = Quadratic()
    run = {step: shifted(problem.params, 0.01 * step) for step in (0, 1, 10, 100)}
    traj = jaxllc.trajectory(
        quadratic_loss,
        run,
        problem.data,
        key=jax.random.key(0),
        sampler=jaxllc.SGLD(2e-3),
        nbeta=50.0,
        localization=3.0,
        num_chains=4,
        num_draws=60,
        num_burn_in=10,
        progress=False,
    )
    top, bottom = traj.plot()
    np.testing.assert_allclose(top.lines[0].get_ydata(), traj.table()["llc"])
    np.testing.assert_allclose(bottom.lines[1].get_ydata(), traj.table()["loss"])
    band = top.collections[0].get_paths()[0].vertices[:, 1]
    table = traj.table()
    assert np.isclose(band.max(), (table["llc"] + 2 * table["std_error"]).max())
    shown = sum(len(line.get_xdata()) for line in top.lines if line.get_marker() == "o")
    assert shown == 4
    top.figure.clear()


def test_several_runs_are_drawn_with_their_mean():
    problem = Quadratic()
    runs = {f"seed {i}": {step: shifted(problem.params, 0.01 * step + 0.1 * i) for step in (0, 1, 10, 100)} for i in range(3)}
    traj = jaxllc.trajectory(
        quadratic_loss, runs, problem.data, key=jax.random.key(0), sampler=jaxllc.SGLD(2e-3), nbeta=50.0, localization=3.0, num_chains=4, num_draws=60,
        num_burn_in=10, progress=False,
    )  # fmt: skip
    top, bottom = traj.plot()
    table, mean = traj.table(), diagnostics.over_runs(traj.data)
    np.testing.assert_allclose(top.lines[0].get_ydata(), table["llc"].groupby("step").mean(), rtol=1e-6)
    band = top.collections[0].get_paths()[0].vertices[:, 1]
    assert np.isclose(band.max(), (mean["llc"] + 2 * mean["std_error"]).max())
    for ax, column in ((top, "llc"), (bottom, "loss")):
        thin = [line.get_ydata() for line in ax.lines if line.get_linestyle() == "-" and line.get_linewidth() == 0.6]
        np.testing.assert_allclose(thin, [table.loc[name, column] for name in runs])
    assert sum(len(line.get_xdata()) for line in top.lines if line.get_marker() == "o") == 12
    top.figure.clear()
    # One run by its name has the band of its own errors, as it would without one.
    table = diagnostics.summary(traj.data).isel(run=0)
    top = jaxllc.Trajectory(traj.data.isel(run=[0])).plot()[0]
    band = top.collections[0].get_paths()[0].vertices[:, 1]
    assert np.isclose(band.max(), (table["llc"] + 2 * table["std_error"]).max())
    top.figure.clear()
