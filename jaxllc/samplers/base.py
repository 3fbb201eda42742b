"""What every sampler is: hyperparameters as data, and two pure methods."""

from typing import Any, NamedTuple, Protocol

import jax

from jaxllc._typing import Batch, Key, Params
from jaxllc.posterior import LocalPosterior


class Info(NamedTuple):
    """What a reader of the run needs of one step."""

    losses: jax.Array
    """Losses of the step's batch at the position *before* the step, as `LocalPosterior.losses` gives them."""
    step_bias: jax.Array
    r"""What the finite step adds to $\hat\lambda$, `float[]`, of which the mean over steps counts; zero for a sampler without such a bias."""


class Sampler(Protocol):
    """A pytree of hyperparameters; numbers that may be swept are leaves, what changes code is static."""

    def init(self, position: Params) -> Any:
        """The state of a chain that starts at `position`."""
        ...

    def step(self, key: Key, state: Any, posterior: LocalPosterior, batch: Batch) -> tuple[Any, Info]:
        """One step on one batch."""
        ...
