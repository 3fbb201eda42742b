r"""The toy model of superposition: more features than dimensions (Elhage et al., arXiv:2209.10652; Chen et al., arXiv:2310.06301).

$f(x) = \mathrm{ReLU}(W^\top W x + b)$ with $W$ `[2, features]` on inputs with one active feature, $x = a e_i$, $i$ uniform and $a \sim U[0, 1]$; the loss is
$\lVert x - f(x) \rVert^2$, whose mean over the inputs has a closed form. Its critical points are regular polygons, and their learning
coefficients are half the rank of the Hessian.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import root_scalar

from jaxllc._typing import Key, Params


def init_params(key: Key, num_features: int = 6, num_hidden: int = 2) -> Params:
    """Standard normal weights `weight[hidden, features]` and biases `bias[features]`."""
    weight_key, bias_key = jax.random.split(key)
    return {"weight": jax.random.normal(weight_key, (num_hidden, num_features)), "bias": jax.random.normal(bias_key, (num_features,))}


def apply(params: Params, x_BxF: jax.Array) -> jax.Array:
    """The reconstructions, `[B, features]`, of inputs `[B, features]`."""
    return jax.nn.relu(x_BxF @ params["weight"].T @ params["weight"] + params["bias"][None])


def squared_loss(params: Params, x_BxF: jax.Array) -> jax.Array:
    """The squared distance of each input to its reconstruction, `float[B]`: nats under output noise of variance one half, up to a constant."""
    return jnp.square(x_BxF - apply(params, x_BxF)).sum(-1)


def examples(key: Key, num_examples: int, num_features: int = 6) -> jax.Array:
    """Inputs with one active feature, `[n, features]`."""
    which_key, size_key = jax.random.split(key)
    which = jax.random.randint(which_key, (num_examples,), 0, num_features)
    return jax.nn.one_hot(which, num_features) * jax.random.uniform(size_key, (num_examples, 1))


def population_loss(params: Params) -> jax.Array:
    r"""The exact mean of `squared_loss` over the inputs.

    Output $j$ of the input $a e_i$ is $\max(0, g a + b)$ with $g = (W^\top W)_{ji}$ and $b = b_j$. It is linear between two bounds of $a$ and 0 elsewhere, and
    $\int (g a + b)^2 da$ and, for $j = i$, $\int a (g a + b) da$ are polynomials in the bounds.
    """
    gram_FxF = params["weight"].T @ params["weight"]
    bias_Fx1 = params["bias"][:, None]
    flat_FxF = gram_FxF == 0
    crossing_FxF = jnp.clip(-bias_Fx1 / jnp.where(flat_FxF, 1.0, gram_FxF), 0.0, 1.0)
    low_FxF = jnp.where(flat_FxF | (gram_FxF < 0), 0.0, crossing_FxF)
    high_FxF = jnp.where(flat_FxF, jnp.where(bias_Fx1 > 0, 1.0, 0.0), jnp.where(gram_FxF < 0, crossing_FxF, 1.0))
    one, two, three = (high_FxF**k - low_FxF**k for k in (1, 2, 3))
    squares_FxF = gram_FxF**2 * three / 3 + gram_FxF * bias_Fx1 * two + bias_Fx1**2 * one
    product_F = jnp.diagonal(gram_FxF * three / 3 + bias_Fx1 * two / 2)
    return 1 / 3 + squares_FxF.sum(0).mean() - 2 * product_F.mean()


def polygon(corners: int, num_features: int = 6, *, spare: str = "dead") -> Params:
    r"""A critical point of the population loss: the columns of `weight` form a regular polygon, those of the other features are 0; float64.

    With $G = W^\top W = s \cos(2 \pi d / k)$ at distance $d$ along the polygon and biases $-s\beta$, the loss of a corner's input is
    $\frac13 - 2 s A + s^2 Q$ with $A = \frac13 - \frac\beta2 + \frac{\beta^3}6$ and $Q = \sum_{\cos > \beta} (\cos - \beta)^3 / (3 \cos)$; it is minimal at
    $s = A / Q$ and the root of $2 A' Q = A Q'$ in $\beta$.

    Args:
        corners: k, the number of represented features, at least five: with fewer, the point lies on a kink of the loss.
        num_features: columns of `weight`.
        spare: the biases of the other features: `"dead"` is −0.5, whose output is 0 for all inputs; `"on"` is 1/(2 · features), the best constant output
            (marked + in arXiv:2310.06301).

    Raises:
        ValueError: corners outside 5 .. `num_features`, another `spare`, or no such critical point.
    """
    if not 5 <= corners <= num_features:
        raise ValueError(f"corners must lie between 5 and num_features {num_features}, got {corners}.")
    spares = {"dead": -0.5, "on": 1 / (2 * num_features)}
    if spare not in spares:
        raise ValueError(f"spare must be one of {', '.join(spares)}, got {spare!r}.")
    cosines = np.cos(2 * np.pi * np.arange(corners) / corners)

    def parts(beta: float) -> tuple[float, float]:
        on = cosines[cosines > beta]
        return 1 / 3 - beta / 2 + beta**3 / 6, float(((on - beta) ** 3 / (3 * on)).sum())

    def slope(beta: float) -> float:
        numerator, denominator = parts(beta)
        on = cosines[cosines > beta]
        return (beta**2 - 1) * denominator + numerator * float(((on - beta) ** 2 / on).sum())

    if slope(0.0) <= 0:
        raise ValueError(f"a polygon of {corners} corners has no critical point with negative biases; take fewer or more corners.")
    beta = root_scalar(slope, bracket=(0.0, 0.9)).root
    numerator, denominator = parts(beta)
    size = numerator / denominator
    angles = 2 * np.pi * np.arange(corners) / corners
    weight = np.zeros((2, num_features))
    weight[:, :corners] = np.sqrt(size) * np.stack([np.cos(angles), np.sin(angles)])
    bias = np.full(num_features, spares[spare])
    bias[:corners] = -size * beta
    return {"weight": weight, "bias": bias}


def polygon_llc(corners: int, num_features: int = 6, *, spare: str = "dead") -> float:
    r"""$\lambda$ of the population loss at `polygon`: half the number of weights, minus one for the rotation and three for each dead feature.

    The Hessian is degenerate only along the set of critical points, so that $\lambda$ is half its rank.
    """
    dead = (num_features - corners) * (spare == "dead")
    return (3 * num_features - 1 - 3 * dead) / 2
