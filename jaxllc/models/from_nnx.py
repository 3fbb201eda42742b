"""A flax.nnx module as a pure function of its weights."""

from collections.abc import Callable
from typing import Any

from flax import nnx

from jaxllc._typing import Params


def from_nnx(module: nnx.Module) -> tuple[Callable[..., Any], Params]:
    """The module in evaluation mode as `apply(params, *args, **kwargs)`, and its `nnx.Param`s.

    The module itself is not changed. `apply` calls a copy that is in evaluation mode (`module.eval()`: `Dropout` is deterministic, `BatchNorm` uses its
    running statistics) and is made anew at each call, so that what a call changes is forgotten: statistics, counters and random keys stay what they are
    in `module`, and one input has one output.

    Args:
        module: of `flax.nnx`.

    Returns:
        `apply`, which takes the weights as an `nnx.State` like `params`, as plain nested dictionaries of its names, or with more of a state, such as
        `nnx.state(other, nnx.Any(nnx.Param, nnx.BatchStat))`, which it then uses in the place of what `module` had: so a trajectory follows checkpoints
        with statistics of their own. And `params`.

    Examples:
        >>> from flax import nnx
        >>> from jaxllc.models.from_nnx import from_nnx
        >>> apply, params = from_nnx(nnx.Linear(2, 1, rngs=nnx.Rngs(0)))
        >>> loss_fn = lambda params, batch: (apply(params, batch[0])[:, 0] - batch[1]) ** 2 / 2
        >>> loss_fn(params, data).shape
        (1000,)
    """
    copy = nnx.clone(module)
    copy.eval()
    graph, params, rest = nnx.split(copy, nnx.Param, ...)

    def apply(params: Params, *args: Any, **kwargs: Any) -> Any:
        return nnx.merge(graph, nnx.merge_state(rest, params), copy=True)(*args, **kwargs)

    return apply, params
