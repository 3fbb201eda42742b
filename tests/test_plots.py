"""Pictures show the numbers of their result."""

import jax
import matplotlib as mpl
import numpy as np
from problems import Quadratic, quadratic_loss, shifted

import jaxllc

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
