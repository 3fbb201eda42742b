"""The checkpoints of several seeds that `jaxllc.models.train.train_seeds` saved, one lazy mapping a seed."""

import os
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from jaxllc._typing import Params
from jaxllc.checkpoints import ItemNotFoundError, OrbaxCheckpoints, format_steps


class SeedRuns(Mapping[str, Mapping[int, Params]]):
    """The runs that `train_seeds` saved, `seed_0`, `seed_1` and so on, each a lazy mapping from the step to its weights.

    All seeds of a step share one Orbax checkpoint, stacked on a leading axis, since the number of files sets the time of saving. A run reads that checkpoint
    and takes its own weights. The mapping can be pickled; arrays are read when they are asked for.

    Args:
        directory: that of `train_seeds`.
        like: a pytree with the structure, shapes and dtypes of the weights of one seed. None gives nested dictionaries as they are on disk.
        averaged: True gives the moving average of the weights, False the weights themselves.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: it holds no finished checkpoint, or none of `train_seeds`, or an average is asked for and none was saved.

    Examples:
        >>> import optax
        >>> from jaxllc.models.train import Recipe, SeedRuns, train_seeds
        >>> recipe = Recipe(loss_fn, lambda key, data: data, data, optax.sgd(0.1))
        >>> saved = train_seeds(recipe, lambda key: params, key=jax.random.key(0), seeds=[0, 1], steps=[10], directory="run")
        >>> list(SeedRuns("run"))
        ['seed_0', 'seed_1']
    """

    def __init__(self, directory: str | os.PathLike[str], like: Params | None = None, *, averaged: bool = False) -> None:
        seeds = OrbaxCheckpoints(directory, item="seeds")
        self.seeds: tuple[int, ...] = tuple(np.asarray(seeds[min(seeds)]).tolist())
        self.decay: np.float32 | None = read_decay(directory, min(seeds))
        """Decay of the moving average of the weights; None where none was saved."""
        if averaged and self.decay is None:
            raise ValueError(f"{directory} holds no moving average of the weights; train with a Recipe(..., average=...), or leave averaged out.")
        stacked = None if like is None else jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((len(self.seeds), *np.shape(leaf)), leaf.dtype), like)
        self.stacked: OrbaxCheckpoints = OrbaxCheckpoints(directory, like=stacked, item="average" if averaged else "params")
        """The checkpoints with all seeds in them, in the order of `seeds`."""

    def __getitem__(self, run: str) -> Mapping[int, Params]:
        """The checkpoints of one seed.

        Raises:
            KeyError: no such run.
        """
        names = list(self)
        if run not in names:
            raise KeyError(f"no run {run!r} in {self.stacked.directory}; it holds {', '.join(names)}.")
        return _OneSeed(self.stacked, names.index(run))

    def __iter__(self) -> Iterator[str]:
        return (f"seed_{seed}" for seed in self.seeds)

    def __len__(self) -> int:
        return len(self.seeds)

    def __repr__(self) -> str:
        which = "averaged weights of " if self.stacked.item == "average" else ""
        return f"SeedRuns({str(self.stacked.directory)!r}: {which}{', '.join(self)}; steps {format_steps(self.stacked)})"


def read_decay(directory: str | os.PathLike[str], step: int) -> np.float32 | None:
    """Decay of the moving average that was saved with a checkpoint, None where there is no average."""
    try:
        return np.ravel(OrbaxCheckpoints(directory, item="decay")[step])[0]
    except ItemNotFoundError:
        return None


class _OneSeed(Mapping[int, Params]):
    """The weights of one seed by step, out of the stacked checkpoints."""

    def __init__(self, stacked: Mapping[int, Params], index: int) -> None:
        self.stacked, self.index = stacked, index

    def __getitem__(self, step: int) -> Params:
        return jax.tree.map(lambda leaf: leaf[self.index], self.stacked[step])

    def __iter__(self) -> Iterator[int]:
        return iter(self.stacked)

    def __len__(self) -> int:
        return len(self.stacked)
