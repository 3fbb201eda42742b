"""devinterp 1.3.2 for the time to a given error: chains one after the other, SGLD with its Gaussian noise. Arguments: threads, problem."""

import warnings

import numpy as np
from devinterp.optim.sgld import SGLD
from devinterp.slt.llc import LLCEstimator
from devinterp.slt.sampler import sample
from precision_nets import is_divergence, serve

warnings.simplefilter("ignore")


def trace(problem, step_size, seeds, num_steps):
    settings, found = problem.settings, np.full((len(seeds), num_steps), np.nan)

    def evaluate(model, data):
        return problem.criterion(model(data[0]), data[1]), {}

    for i, seed in enumerate(seeds):
        estimator = LLCEstimator(1, num_steps, init_loss=problem.init_loss, nbeta=settings["nbeta"])
        try:
            sample(
                problem.model, problem.loader, callbacks=[estimator], evaluate=evaluate, sampling_method=SGLD,
                optimizer_kwargs=dict(lr=step_size, nbeta=settings["nbeta"], localization=settings["localization"]), num_draws=num_steps, num_chains=1,
                num_burnin_steps=0, init_loss=problem.init_loss, seed=[seed], verbose=False,
            )  # fmt: skip
        except RuntimeError as error:
            if not is_divergence(error):
                raise
            continue
        found[i] = estimator.losses[0].numpy()
    return found


serve("devinterp", 2, trace)
