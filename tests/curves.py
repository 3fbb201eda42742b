"""Synthetic curves of λ̂ and the loss over training, with known stages or with none."""

import numpy as np

STEP = np.unique(np.geomspace(10, 1e5, 60).round())
U = np.log(STEP / STEP[0]) / np.log(STEP[-1] / STEP[0])
"""Log-time of these checkpoints, from 0 to 1."""


def sigmoid(u, middle, width):
    return 1 / (1 + np.exp((middle - u) / width))


def noise(rng, correlation):
    """Gaussian noise of variance one, correlated between neighbours."""
    values = rng.standard_normal(len(U))
    for i in range(1, len(U)):
        values[i] = correlation * values[i - 1] + np.sqrt(1 - correlation**2) * values[i]
    return values


def without_stages(kind, seed):
    """A smooth rise of one of three forms, or none, with errors that differ threefold between checkpoints, and a loss that falls smoothly."""
    rng = np.random.default_rng([seed, 1])
    error = 0.3 * np.exp(rng.uniform(-0.7, 0.7, len(U)) + U * rng.uniform(-1, 1))
    rises = sigmoid(U, rng.uniform(0.3, 0.7), rng.uniform(0.06, 0.25)), U ** rng.uniform(0.6, 1.6), 1 - np.exp(-U / rng.uniform(0.15, 0.6))
    llc = 20 + (0 if "flat" in kind else 30) * rises[rng.integers(3)] + error * noise(rng, rng.uniform(0.4, 0.9) if "correlated" in kind else 0.0)
    loss = 2 + 4 * np.exp(-U / rng.uniform(0.15, 0.6)) - ("loss" in kind) * sigmoid(U, rng.uniform(0.3, 0.7), 0.03)
    claimed = error * {"understated": 0.25, "overstated": 5.0}.get(kind, 1.0)
    return STEP, llc, claimed, loss + 0.01 * noise(rng, 0.0), np.full(len(U), 0.01)


KINDS = ("rise", "rise, correlated", "understated", "overstated", "flat", "flat, correlated", "loss only", "flat, loss only")


def fall_between_rises(depth, seed, correlation=0.0):
    """Two rises with a fall between them, of `depth` standard deviations of a point, while the loss falls steadily; and the steps of its top and bottom."""
    rng = np.random.default_rng([seed, 2])
    fine = np.linspace(0, 1, 20_001)

    def curve(u, fall):
        return 20 * sigmoid(u, 0.25, 0.03) + 20 * sigmoid(u, 0.8, 0.03) - fall * sigmoid(u, 0.52, 0.03)

    inside = (fine > 0.35) & (fine < 0.7)
    fall = 0.3 * depth
    for _ in range(60):  # the tails of the rises reduce the fall
        values = curve(fine[inside], fall)
        fall += 0.3 * depth - (values.max() - values[values.argmax() :].min())
    top = fine[inside][values.argmax()]
    bottom = fine[inside][values.argmax() + values[values.argmax() :].argmin()]
    loss = 6 - 3 * U + 0.01 * rng.standard_normal(len(U))
    truth = STEP[0] * (STEP[-1] / STEP[0]) ** np.array([top, bottom])
    return (STEP, curve(U, fall) + 0.3 * noise(rng, correlation), np.full(len(U), 0.3), loss), truth


GRID = np.unique(np.r_[np.geomspace(61, 300, 8), np.linspace(300, 1700, 44), 1800, 1900, 2000].round())
"""The checkpoints of the induction experiment from step 61 on."""
BUMP_RISES, BUMP_FALLS = 560, 1000
"""Steps at which the bump of `induction_like` rises and falls."""


def induction_like(depth, seed):
    """A rise to 22, a fall of `depth` at step 360, a bump of 12 at step 560 of which 5 remain; points scatter by 0.7 before step 520 and by 1.5 after."""
    rng = np.random.default_rng([seed, 3])
    x = np.log(GRID)
    risen = sigmoid(x, np.log(BUMP_RISES), 0.05)
    dip = depth * sigmoid(x, np.log(360), 0.06) * (1 - risen)
    llc = 22 - 9 * np.exp(-2 * (x - x[0])) + 12 * risen * (1 - 0.6 * sigmoid(x, np.log(BUMP_FALLS), 0.12)) - dip
    error = np.where(GRID < 520, 0.7, 1.5) * np.exp(0.2 * rng.standard_normal(len(x)))
    loss = 3.6 - 0.1 * (x - x[0]) - 0.6 * sigmoid(x, np.log(BUMP_RISES), 0.06)
    loss_error = np.full(len(x), 0.005)
    return GRID, llc + error * rng.standard_normal(len(x)), error, loss + loss_error * rng.standard_normal(len(x)), loss_error


LANGUAGE_STEP = np.unique(np.geomspace(100, 5e4, 90).round())


def language_model_like(last_rise, seed):
    """The shape of arXiv:2402.02364, fig. 1: two rises, a fall that the loss does not show, a rise, and a last one of `last_rise` after a pause, or none.

    Returns the arguments of `find_stages`, the steps between the stages, and the change of each stage.
    """

    def curve(step):
        x = np.log(step)
        rises = 26 * sigmoid(x, np.log(350), 0.2) + 24 * sigmoid(x, np.log(2400), 0.22) + 9 * sigmoid(x, np.log(11_500), 0.12)
        return rises - 6 * sigmoid(x, np.log(7400), 0.09) + last_rise * sigmoid(x, np.log(28_000), 0.12)

    rng = np.random.default_rng([seed, 5])
    x = np.log(LANGUAGE_STEP)
    error = 0.3 * np.exp(rng.uniform(-0.5, 0.5, len(x)))
    llc = curve(LANGUAGE_STEP) + error * rng.standard_normal(len(x))
    loss = 7.5 - sigmoid(x, np.log(400), 0.5) - 1.5 * sigmoid(x, np.log(3000), 0.8) - 0.8 * sigmoid(x, np.log(9000), 0.8)
    loss_error = np.full(len(x), 0.005)
    fine = np.geomspace(100, 5e4, 20_001)
    values, speed = curve(fine), np.gradient(curve(fine))
    places = [(500, 1500, speed), (5000, 8000, -values), (7000, 10_000, values), *([(13_000, 25_000, speed)] if last_rise else [])]
    truth = np.array([fine[np.where((fine > low) & (fine < high), goal, np.inf).argmin()] for low, high, goal in places])
    changes = np.diff(curve(np.array([100, *truth, 5e4])))
    return (LANGUAGE_STEP, llc, error, loss + loss_error * rng.standard_normal(len(x)), loss_error), truth, changes
