r"""Any algorithm of BlackJAX on the loss of all data.

$n\beta$ stands in the density and the temperature is one, so that the Gaussian prior is not tempered.
"""

import contextlib
import functools
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllc._plain import function_name, load_function, to_plain
from jaxllc._typing import Batch, Key, Params
from jaxllc.posterior import LocalPosterior
from jaxllc.sampler import Info, Sampler, no_steps


class BlackJAXState(NamedTuple):
    """The state of the algorithm, and the number of steps."""

    inner: Any
    steps: jax.Array

    @property
    def position(self) -> Params:
        """The free weights."""
        return self.inner.position


class FullBatchSampler(Sampler):
    """The common part: a step builds the density of the posterior and makes one step of the algorithm."""

    full_batch: ClassVar[bool] = True
    """`jaxllc.sample` refuses minibatches."""
    block: ClassVar[int] = 16
    """An iteration on all data may take seconds."""
    min_acceptance: ClassVar[float | None] = 0.15
    """Below the optimum of any algorithm: 0.234 of a random walk, 0.4 of Barker's."""

    def algorithm(self, log_density: Callable[[Params], jax.Array], masses: jax.Array, steps: jax.Array, key: Key) -> Any:
        """The `SamplingAlgorithm` of BlackJAX for a density, at this step of the chain.

        Args:
            log_density: of the posterior, not normalised.
            masses: ones, one a weight, in the dtype of the chain.
            steps: steps made so far.
            key: for an algorithm that varies at random.
        """
        raise NotImplementedError

    def init(self, position: Params) -> BlackJAXState:
        """A chain that starts at `position`, in the widest precision that is enabled: BlackJAX draws its own numbers in it."""
        position = jax.tree.map(lambda w: w.astype(jnp.result_type(float)), position)

        def flat(position: Params) -> jax.Array:
            return 0 * _masses(position).sum()

        with _strictness("standard", "allow")():
            algorithm = self.algorithm(flat, _masses(position), no_steps(), jax.random.key(0))
            return BlackJAXState(algorithm.init(position, _raw(jax.random.key(0))), no_steps())

    def step(self, key: Key, state: BlackJAXState, posterior: LocalPosterior, batch: Batch) -> tuple[BlackJAXState, Info]:
        """One step; `batch` is all data."""
        as_asked, masses = _strictness(), _masses(state.position)

        def log_density(position: Params) -> jax.Array:
            with as_asked():
                return -posterior.potential(position, posterior.losses(position, batch)).astype(masses.dtype)

        own_key, start_key, step_key = jax.random.split(key, 3)
        with _strictness("standard", "allow")():
            algorithm = self.algorithm(log_density, masses, state.steps, own_key)
            inner, info = _move(algorithm, _raw(start_key), _raw(step_key), state)
        losses = posterior.losses(state.position, batch)
        rate = _acceptance_rate(info, state.position, inner.position).astype(losses.dtype) if self.min_acceptance is not None else None
        return BlackJAXState(inner, state.steps + 1), Info(losses, jnp.zeros((), losses.dtype), rate)


def _acceptance_rate(info: Any, before: Params, after: Params) -> jax.Array:
    """As the algorithm gives it; of one that does not, whether the position moved."""
    if "acceptance_rate" in getattr(info, "_fields", ()):
        return jnp.asarray(info.acceptance_rate)
    moved = [jnp.any(old != new) for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)]
    return jnp.any(jnp.stack(moved)).astype(jnp.float32)


def _move(algorithm: Any, start_key: jax.Array, step_key: jax.Array, state: BlackJAXState) -> tuple[Any, Any]:
    # The density at the position is computed anew: `init` knows neither posterior nor batch. The draw's losses come with it.
    fresh = algorithm.init(state.position, start_key)
    known = {name: getattr(fresh, name) for name in ("logdensity", "logdensity_grad") if name in fresh._fields}
    inner = jax.tree.map(lambda new, old: jnp.where(state.steps == 0, new, old), fresh, state.inner)._replace(**known)
    moved, info = algorithm.step(step_key, inner)

    def like(new: Any, old: jax.Array) -> jax.Array:
        """In the dtype and, where a partitioner looks for one, the sharding of the old state: BlackJAX makes one vector of some trees and takes it apart."""
        return jnp.where(state.steps < 0, old, jnp.asarray(new).astype(jnp.result_type(old)))

    return jax.tree.map(like, moved, inner), info


def _strictness(dtypes: str | None = None, ranks: str | None = None) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """A context with the given rules of promotion, by default those that hold now: BlackJAX mixes dtypes and ranks, whatever is asked of other code."""
    config: Any = jax.config
    dtypes, ranks = dtypes or config.jax_numpy_dtype_promotion, ranks or config.jax_numpy_rank_promotion

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        with jax.numpy_dtype_promotion(dtypes), jax.numpy_rank_promotion(ranks):
            yield

    return context


def _raw(key: Key) -> jax.Array:
    """An untyped key: the checker of key reuse takes BlackJAX's loops over typed ones, once batched, for reuse."""
    return jax.random.bits(key, jax.random.key_data(jax.random.key(0)).shape, jnp.uint32)


def _masses(position: Params) -> jax.Array:
    """Ones, as many as there are weights."""
    return jnp.ones(sum(leaf.size for leaf in jax.tree.leaves(position)))


@jax.tree_util.register_pytree_node_class
class BlackJAX(FullBatchSampler):
    """Any algorithm of BlackJAX, by the function that makes it from a log density, such as `blackjax.barker`.

    Args:
        algorithm: `algorithm(log_density, **parameters)` gives a `SamplingAlgorithm` whose state has a `position`; or its `"module:name"`.
        parameters: its arguments, in BlackJAX's own units; numbers may be swept, everything else is static, also arrays such as masses.

    Examples:
        >>> import blackjax
        >>> settings = jaxllc.Settings(jaxllc.BlackJAX(blackjax.barker, step_size=0.1), batch_size=None)
        >>> round(jaxllc.estimate(loss_fn, params, data, settings, key=jax.random.key(0)).llc)
        2
    """

    def __init__(self, algorithm: Callable[..., Any] | str, **parameters: Any) -> None:
        self._make = load_function(algorithm) if isinstance(algorithm, str) else algorithm
        self.parameters: dict[str, Any] = {name: _Constant(value) if _is_array(value) else value for name, value in parameters.items()}

    def algorithm(self, log_density: Callable[[Params], jax.Array], masses: jax.Array, steps: jax.Array, key: Key) -> Any:
        """The algorithm with its parameters."""
        return self._make(log_density, **{name: _in_dtype(value, masses.dtype) for name, value in self.parameters.items()})

    def replace(self, **parameters: Any) -> "BlackJAX":
        """The same algorithm with other parameters."""
        return BlackJAX(self._make, **(self.parameters | parameters))

    def to_dict(self) -> dict[str, Any]:
        """The place of the algorithm, such as `blackjax:barker`, and its parameters."""
        values = {name: value.array if isinstance(value, _Constant) else value for name, value in self.parameters.items()}
        return {"name": "BlackJAX", "algorithm": _place(self._make), "parameters": to_plain(values, "BlackJAX.parameters")}

    @classmethod
    def _from_fields(cls, fields: dict[str, Any]) -> "BlackJAX":
        if "algorithm" not in fields:
            raise ValueError(f"BlackJAX needs 'algorithm', such as 'blackjax:barker'; got {fields!r}.")
        return cls(fields["algorithm"], **fields.get("parameters", {}))

    def describe(self, num_steps: int = 1) -> str:
        """The call that makes it."""
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BlackJAX) and self._make is other._make and self.parameters == other.parameters

    def __hash__(self) -> int:
        return hash((BlackJAX, tuple(self.parameters)))

    def __repr__(self) -> str:
        return f"BlackJAX({_name(self._make)}, {', '.join(f'{k}={_name(v) if callable(v) else repr(v)}' for k, v in self.parameters.items())})"

    def tree_flatten(self) -> tuple[list[Any], Any]:
        """Floats are leaves."""
        swept = {name: value for name, value in self.parameters.items() if _is_swept(value)}
        static: Mapping[str, Any] = {name: value for name, value in self.parameters.items() if name not in swept}
        return list(swept.values()), (self._make, tuple(swept), tuple(static.items()))

    @classmethod
    def tree_unflatten(cls, auxiliary: Any, leaves: list[Any]) -> "BlackJAX":
        """From the leaves, of any shape: a stack of numbers is none of the arrays that `__init__` makes static."""
        make, names, static = auxiliary
        made = cls(make)
        made.parameters = dict(zip(names, leaves, strict=True)) | dict(static)
        return made


def _is_array(value: Any) -> bool:
    return (isinstance(value, np.ndarray | jax.Array) and value.ndim > 0) or isinstance(value, list)


class _Constant:
    """An array that JAX takes for a constant of the program: equal to another one where the bytes are."""

    def __init__(self, array: Any) -> None:
        self.array = np.asarray(array)
        self._identity = (self.array.shape, self.array.dtype.name, self.array.tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Constant) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __repr__(self) -> str:
        shape, dtype, values = self._identity
        return f"{dtype}{list(shape)} of checksum {zlib.crc32(values):08x}"


def _in_dtype(value: Any, dtype: Any) -> Any:
    """A parameter as BlackJAX takes it, in the dtype of the chain where it is real."""
    value = value.array if isinstance(value, _Constant) else value
    return jnp.asarray(value, dtype) if isinstance(value, np.ndarray | jax.Array) and jnp.issubdtype(value.dtype, jnp.floating) else value


def _place(algorithm: Callable[..., Any]) -> str:
    """`module:name` of an algorithm: those that BlackJAX exports are found by their name there.

    Raises:
        ValueError: it has no such name.
    """
    import blackjax

    exported = [name for name, value in vars(blackjax).items() if value is algorithm]
    return f"blackjax:{exported[0]}" if exported else function_name(algorithm, "BlackJAX(algorithm)")


def _is_swept(value: Any) -> bool:
    """Floats, and whatever stands in the place of one while JAX rebuilds the tree; not what is static by its nature."""
    return not (value is None or callable(value) or isinstance(value, bool | int | str | _Constant))


def _name(function: Callable[..., Any]) -> str:
    """Where a function comes from: the algorithms that BlackJAX exports are objects of one class, and some are `functools.partial`s of others."""
    function = getattr(function, "differentiable", function)
    if isinstance(function, functools.partial):
        given = [repr(x) for x in function.args] + [f"{k}={_name(v) if callable(v) else repr(v)}" for k, v in function.keywords.items()]
        return f"{_name(function.func)}({', '.join(given)})"
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__name__)}".removesuffix(".as_top_level_api")
