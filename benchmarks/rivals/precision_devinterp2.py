"""devinterp 2.0.1 for the time to a given error. Arguments: threads, problem.

`llc` takes sequences of token ids and a loss of each token. Of a model of other data the "tokens" are the number of a row and a zero, and `loss_fn` looks the
row up. Each chain has batches of its own, which by default all chains share.
"""

import shutil
import tempfile
import warnings

import numpy as np
import torch
from datasets import Dataset
from devinterp.slt.llc import llc
from precision_nets import is_divergence, serve

warnings.simplefilter("ignore")
datasets = {}


def dataset_of(problem):
    if id(problem) not in datasets:
        x = problem.x
        ids = torch.cat([x, problem.y[:, -1:]], 1) if problem.kind == "transformer" else torch.stack([torch.arange(len(x)), torch.zeros(len(x), dtype=int)], 1)
        datasets.clear()
        datasets[id(problem)] = Dataset.from_dict({"input_ids": ids.tolist()}).with_format("torch")
    return datasets[id(problem)]


def trace(problem, step_size, seeds, num_steps):
    settings, found = problem.settings, np.full((len(seeds), num_steps), np.nan)

    def loss_fn(model, ids):
        if problem.kind == "transformer":
            return problem.losses(model(ids[:, :-1]), ids[:, 1:])
        rows = ids[:, 0]
        return problem.losses(model(problem.x[rows]), problem.y[rows])[:, None]

    for i, seed in enumerate(seeds):
        where = tempfile.mkdtemp()
        try:
            result = llc(
                problem.model, dataset_of(problem), {}, lr=step_size, n_beta=settings["nbeta"], localization=settings["localization"],
                loss_fn=loss_fn, num_chains=1, num_draws=num_steps, batch_size=settings["batch_size"], num_init_loss_batches=1, init_seed=seed,
                match_sampling_input_ids_across_chains=False, output_path=where + "/out",
            )  # fmt: skip
            found[i] = result["loss_trace"].values[0]
        except (RuntimeError, ValueError, FloatingPointError) as error:
            if not is_divergence(error):
                raise
        finally:
            shutil.rmtree(where)
    return found


serve("devinterp", 1, trace)
