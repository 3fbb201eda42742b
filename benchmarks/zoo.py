r"""The zoo: small problems as people have them, each with a reference for $\hat\lambda$ on the same posterior.

A problem gives `make() -> (loss_fn, params, data)`, as `jaxllc.estimate` takes them. Its reference is exact where the loss is quadratic or has few weights
(a Gaussian integral, or quadrature), by Gibbs sampling for linear nets, and else the mean of long chains of `whitened_hmc`. Trained nets are taken from
results/zoo/ (`zoo_nets`).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import deep_linear_nets, gibbs
from benchmarks import zoo_nets as nets
from benchmarks.whitened_hmc import Length
from jaxllc.models import induction, linear, modular, tms
from jaxllc.models.transformer import Transformer, next_token_loss

Made = tuple[Callable[[Any, Any], jax.Array], Any, Any]
"""Loss function, w*, data."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """One posterior but for nbeta and localization."""

    make: Callable[[], Made]
    about: str
    known: Callable[[Made, float, float], dict[str, Any]] | None = None
    """`llc` and `std_error` at an nbeta and a localization, and `by` what; None where only chains of `whitened_hmc` tell them."""
    length: Length = dataclasses.field(default_factory=Length)
    """Of the reference chains."""


def exactly(llc: float) -> dict[str, Any]:
    """A reference without an error."""
    return {"by": "exact", "llc": llc, "std_error": 0.0}


def gaussian(made: Made, nbeta: float, localization: float) -> dict[str, Any]:
    """The reference of a linear regression."""
    return exactly(gaussian_llc(made, nbeta, localization))


def gaussian_llc(made: Made, nbeta: float, localization: float) -> float:
    r"""$n\beta\, E[L_n(w) - L_n(w^*)]$ of a linear regression with half the squared error: the posterior is Gaussian, in float64.

    With $H$ and $g$ the Hessian and the gradient at w*, the mean is $m = -n\beta (n\beta H + \gamma)^{-1} g$ away from it, and the coefficient is
    $n\beta (g \cdot m + \frac12 m^\top H m + \frac12 \operatorname{tr} H (n\beta H + \gamma)^{-1})$. Columns are scaled to unit curvature before the inverse.
    """
    _, params, (x, y) = made
    x, y, center = (np.asarray(array, float) for array in (x, y, params))
    scale = 1 / np.sqrt(nbeta * (x**2).mean(0) + localization)
    hessian = (scale[:, None] * (x.T @ x / len(x))) * scale
    gradient = scale * (x.T @ (x @ center - y) / len(x))
    covariance = np.linalg.inv(nbeta * hessian + localization * np.diag(scale**2))
    mean = -nbeta * covariance @ gradient
    return float(nbeta * (gradient @ mean + mean @ hessian @ mean / 2 + np.trace(hessian @ covariance) / 2))


def quadrature_llc(loss: Callable[[Any], Any], size: int, nbeta: float, localization: float, points: int | None = None) -> float:
    r"""$n\beta\, E[K(w)]$ for a loss $K$ of two or three weights with $K(w^*) = 0$, $w^* = 0$: the trapezoidal rule in $t$, $w = a \sinh t$ with a small $a$.

    Converges exponentially in the number of points of an axis, also where the loss is flat along the axes and steep elsewhere. Valleys that follow no axis need
    the more points: by default 4001 in two dimensions and 301 in three.
    """
    points = points or {2: 4001, 3: 301}[size]
    smallest, largest = 1e-4, 9 / np.sqrt(localization)
    grid = np.linspace(-1, 1, points) * np.arcsinh(largest / smallest)
    axis, log_jacobian = smallest * np.sinh(grid), np.log(np.cosh(grid))
    rest = np.meshgrid(*[axis] * (size - 1), indexing="ij")
    log_rest = sum(np.meshgrid(*[log_jacobian] * (size - 1), indexing="ij")) - localization / 2 * sum(part**2 for part in rest)
    total = weighted = 0.0
    for first, log_first in zip(axis, log_jacobian, strict=True):  # in slices, for memory's sake
        energy = nbeta * loss([first, *rest])
        density = np.exp(log_first - localization / 2 * first**2 + log_rest - energy)
        total, weighted = total + density.sum(), weighted + (density * energy).sum()
    return float(weighted / total)


def by_gibbs(made: Made, nbeta: float, localization: float, sweeps: int = 8000) -> dict[str, Any]:
    """The reference of a deep linear net: Gibbs sampling of whole layers in float64."""
    _, layers, (x, y) = made
    x, y, product = np.asarray(x, float), np.asarray(y, float), np.asarray(layers[0], float)
    for layer in layers[1:]:
        product = product @ np.asarray(layer, float)
    widths = (x.shape[1], *(layer.shape[1] for layer in layers))
    center = {"layers": [np.asarray(layer) for layer in layers], "product": product, "signs": np.ones(widths[-1], np.float32)}
    unknown = np.full(1, np.nan)
    found = gibbs.values(deep_linear_nets.Nets(widths, {1: center}, (x, y - x @ product), unknown, unknown, unknown), {nbeta: 1.0}, localization, sweeps)
    return {"by": "Gibbs sampling", "draws": sweeps, **{name: float(found[name][0]) for name in ("llc", "std_error", "rhat")}}


def linear_loss(w: jax.Array, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Half the squared error of a linear model: nats under unit noise, up to a constant."""
    return 0.5 * jnp.square(batch[0] @ w - batch[1])


def logistic_loss(w: jax.Array, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Cross-entropy of a logistic model of two classes, in nats."""
    logit_B = batch[0] @ w
    return jax.nn.softplus(logit_B) - logit_B * batch[1]


def _float32(*arrays: Any) -> Any:
    return tuple(jnp.asarray(array, jnp.float32) for array in arrays)


def regression(scales: Sequence[float], n: int = 2000) -> Made:
    """A linear regression with unit noise whose columns have these scales, at its least squares."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, len(scales)))
    y = x @ rng.normal(size=len(scales)) + rng.normal(size=n)
    w = np.linalg.lstsq(x, y, rcond=None)[0] / scales
    return linear_loss, *_float32(w), _float32(x * scales, y)


def diabetes(scaled: bool) -> Made:
    """Linear regression of the progression of diabetes, in units of its residuals, on ten columns and a constant, raw or standardised."""
    from sklearn.datasets import load_diabetes  # pyright: ignore[reportMissingImports]

    x, y = map(np.asarray, load_diabetes(return_X_y=True, scaled=False))
    x = np.c_[(x - x.mean(0)) / x.std(0) if scaled else x, np.ones(len(x))]
    spread = np.abs(x).max(0)
    w = np.linalg.lstsq(x / spread, y, rcond=None)[0] / spread
    noise = (y - x @ w).std()
    return linear_loss, *_float32(w / noise), _float32(x, y / noise)


def breast_cancer(scaled: bool) -> Made:
    """Logistic regression of the diagnosis on five columns and a constant, raw (areas of hundreds beside fractions) or standardised, at its maximum."""
    from sklearn.datasets import load_breast_cancer  # pyright: ignore[reportMissingImports]

    x, y = map(np.asarray, load_breast_cancer(return_X_y=True))
    x = np.c_[x[:, :5], np.ones(569)]
    spread = np.r_[x[:, :5].std(0), 1]
    if scaled:
        x, spread = np.c_[(x[:, :5] - x[:, :5].mean(0)) / spread[:5], np.ones(569)], np.ones(6)
    z, w = x / spread, np.zeros(6)
    for _ in range(50):  # Newton
        p = 1 / (1 + np.exp(-z @ w))
        w += np.linalg.solve(z.T * (p * (1 - p)) @ z, z.T @ (y - p))
    return logistic_loss, *_float32(w / spread), _float32(x, y)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """1797 images of 8 by 8 pixels between 0 and 1, and their digits."""
    from sklearn.datasets import load_digits  # pyright: ignore[reportMissingImports]

    images, labels = load_digits(return_X_y=True)
    return np.asarray(images / 16, np.float32), np.asarray(labels, np.int32)


def softmax_regression() -> Made:
    """Ten classes on the standardised pixels, early stopped: no minimum exists."""
    images, labels = digits()
    data = (np.asarray((images - images.mean(0)) / np.maximum(images.std(0), 1e-6), np.float32), labels)
    loss_fn = nets.classes_loss(lambda params, x: x @ params["w"] + params["b"][None])
    return loss_fn, nets.trained("softmax", loss_fn, lambda: {"w": jnp.zeros((64, 10)), "b": jnp.zeros(10)}, data, (1000,))[0], data


def singular(loss: Callable[[Any], Any], size: int, about: str) -> Problem:
    """A loss of the weights alone, from the origin, where it is 0, with 1000 examples that it ignores."""

    def make() -> Made:
        return lambda w, batch: loss(w) * jnp.ones_like(batch), jnp.zeros(size), jnp.zeros(1000)

    return Problem(make, f"{about} from the origin", lambda _, nbeta, localization: exactly(quadrature_llc(loss, size, nbeta, localization)))


def tanh_net(stage: int) -> Made:
    """4-8-1 on 20 000 examples of a 4-6-1 net with unit noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 4)).astype(np.float32)
    teacher = jax.tree.map(lambda a: 2 * a, nets.dense((4, 6, 1), jax.random.key(7)))
    y = (np.asarray(nets.forward(teacher, jnp.asarray(x), jnp.tanh)) + rng.normal(size=(20_000, 1))).astype(np.float32)
    loss_fn = nets.regression_loss(jnp.tanh)
    return loss_fn, nets.trained("tanh", loss_fn, lambda: nets.dense((4, 8, 1), jax.random.key(1)), (x, y), TANH, batch_size=256)[stage], (x, y)


def relu_net() -> Made:
    """3-12-1 on 2000 examples of a 3-4-1 net with unit noise."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2000, 3)).astype(np.float32)
    teacher = jax.tree.map(lambda a: 2 * a, nets.dense((3, 4, 1), jax.random.key(8)))
    y = (np.asarray(nets.forward(teacher, jnp.asarray(x), jax.nn.relu)) + rng.normal(size=(2000, 1))).astype(np.float32)
    loss_fn = nets.regression_loss(jax.nn.relu)
    return loss_fn, nets.trained("relu", loss_fn, lambda: nets.dense((3, 12, 1), jax.random.key(2)), (x, y), (5000,))[0], (x, y)


def linear_net(widths: Sequence[int], rank: int, n: int = 2000) -> Made:
    """A deep linear net at the weights that made the data, whose product has this rank."""
    params = linear.teacher(jax.random.key(3), widths, rank)
    return linear.squared_loss, params, linear.examples(jax.random.key(4), params, n)


def digits_mlp(stage: int) -> Made:
    """64-32-10, ReLU."""
    loss_fn = nets.classes_loss(lambda params, x: nets.forward(params, x, jax.nn.relu))
    params = nets.trained("mlp", loss_fn, lambda: nets.dense((64, 32, 10), jax.random.key(0)), digits(), STAGES, batch_size=256)
    return loss_fn, params[stage], digits()


def digits_cnn(stage: int) -> Made:
    """Two convolutions and a linear layer, on every third image."""
    images, labels = digits()
    data = (images[::3], labels[::3])
    loss_fn = nets.classes_loss(nets.cnn)
    return loss_fn, nets.trained("cnn", loss_fn, lambda: nets.init_cnn(jax.random.key(0)), data, STAGES, batch_size=128)[stage], data


def superposition(corners: int) -> Made:
    """A polygon of the toy model of superposition on 5000 inputs; other features are dead."""
    return tms.squared_loss, jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tms.polygon(corners)), tms.examples(jax.random.key(0), 5000)


def modular_addition(stage: int) -> Made:
    """Sums modulo 13, one hidden layer of 16, on 80 % of all pairs."""
    model = modular.ModularNet(13, 16)
    loss_fn = modular.cross_entropy(model)
    data, _ = modular.split(jax.random.key(0), 13, 0.8)
    return loss_fn, nets.trained("modular", loss_fn, lambda: model.init_params(jax.random.key(1)), data, MODULAR)[stage], data


@functools.cache
def sequences() -> np.ndarray:
    """128 sequences of 16 predictions, of 24 tokens four of which are triggers (`jaxllc.models.induction`)."""
    source = induction.make_source(jax.random.key(0), vocab_size=24, num_triggers=4)
    return np.asarray(induction.draw(jax.random.key(1), source, 128, 16))


def transformer(num_layers: int, stage: int) -> Made:
    """Attention only, of width 16."""
    model = Transformer(24, 16, width=16, num_layers=num_layers, num_heads=2)
    loss_fn, name = next_token_loss(model), f"transformer{num_layers}"
    return loss_fn, nets.trained(name, loss_fn, lambda: model.init_params(jax.random.key(2)), sequences(), STAGES, batch_size=64)[stage], sequences()


def gpt() -> Made:
    """One pre-norm block with an MLP."""
    model = nets.GPT(24, 16)
    loss_fn = next_token_loss(model)
    return loss_fn, nets.trained("gpt", loss_fn, lambda: model.init_params(jax.random.key(2)), sequences(), (2000,), batch_size=64)[0], sequences()


TANH = (300, 3000, 20_000)
STAGES = (100, 600, 4000)
MODULAR = (500, 4000)
SMALL = Length(burn_in=200, draws=1280, seconds=150.0)
NET = Length(burn_in=120, draws=320, seconds=150.0)
LARGE = Length(burn_in=100, draws=320, seconds=200.0)


def _staged(name: str, make: Callable[[int], Made], stages: Sequence[int], about: str, length: Length = NET) -> dict[str, Problem]:
    return {f"{name}-{steps}": Problem(functools.partial(make, i), f"{about}, {steps} steps", length=length) for i, steps in enumerate(stages)}


PROBLEMS: dict[str, Problem] = {
    **{
        f"quadratic-1e{power}": Problem(
            functools.partial(regression, tuple(np.logspace(0, power / 2, 6))), f"linear regression, curvatures from 1 to 1e{power}", gaussian
        )
        for power in (2, 4, 6)
    },
    "quadratic-column": Problem(functools.partial(regression, (100.0, 1.0, 1.0, 1.0, 1.0, 1.0)), "linear regression, one column × 100", gaussian),
    "diabetes-raw": Problem(functools.partial(diabetes, False), "linear regression, diabetes, raw columns", gaussian),
    "diabetes": Problem(functools.partial(diabetes, True), "the same, standardised", gaussian),
    "cancer-raw": Problem(functools.partial(breast_cancer, False), "logistic regression, breast cancer, 5 raw columns"),
    "cancer": Problem(functools.partial(breast_cancer, True), "the same, standardised"),
    "softmax": Problem(softmax_regression, "softmax regression, digits, standardised", length=NET),
    "crossing-22": singular(lambda w: w[0] ** 2 * w[1] ** 2, 2, "w₁² w₂²"),
    "crossing-24": singular(lambda w: w[0] ** 2 * w[1] ** 4, 2, "w₁² w₂⁴"),
    "crossing-222": singular(lambda w: w[0] ** 2 * w[1] ** 2 * w[2] ** 2, 3, "w₁² w₂² w₃²"),
    "crossing-246": singular(lambda w: w[0] ** 2 * w[1] ** 4 * w[2] ** 6, 3, "w₁² w₂⁴ w₃⁶"),
    "cusp": singular(lambda w: (w[0] ** 2 - w[1] ** 3) ** 2, 2, "(w₁² − w₂³)²"),
    "reduced-rank": Problem(functools.partial(linear_net, (8, 4, 6), 2), "reduced-rank regression 8-4-6, rank 2", by_gibbs),
    "deep-linear": Problem(functools.partial(linear_net, (5, 6, 6, 4), 2), "deep linear net 5-6-6-4, rank 2", by_gibbs),
    "relu": Problem(relu_net, "ReLU net 3-12-1, regression", length=SMALL),
    "superposition-5": Problem(functools.partial(superposition, 5), "superposition, pentagon", length=SMALL),
    "superposition-6": Problem(functools.partial(superposition, 6), "superposition, hexagon", length=SMALL),
    **_staged("tanh", tanh_net, TANH, "tanh net 4-8-1, n = 20 000", SMALL),
    **_staged("modular", modular_addition, MODULAR, "addition modulo 13", SMALL),
    **_staged("mlp", digits_mlp, STAGES, "MLP 64-32-10, digits"),
    **_staged("cnn", digits_cnn, STAGES, "CNN, digits", LARGE),
    **_staged("transformer1", functools.partial(transformer, 1), STAGES, "one-layer transformer", LARGE),
    **_staged("transformer2", functools.partial(transformer, 2), STAGES, "two-layer transformer", LARGE),
    "gpt": Problem(gpt, "GPT-2-like net", length=LARGE),
}
"""By name; the cheap ones first."""


def make(name: str) -> Made:
    """A problem as `jaxllc.estimate` takes it, made in float32 whatever precision is enabled."""
    with jax.enable_x64(False):
        return PROBLEMS[name].make()
