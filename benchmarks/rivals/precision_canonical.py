"""canonical-interp for the time to a given error. A unit is a call of eight chains, which share each minibatch. Arguments: threads, problem."""

import logging

import numpy as np
import python312  # noqa: F401
from canonical_interp.slt import LLCEstimator
from precision_nets import Attention, serve

CHAINS = 8
Attention.explicit = True
logging.disable(logging.WARNING)


def trace(problem, step_size, seeds, num_steps):
    settings, found = problem.settings, np.full((len(seeds), num_steps), np.nan)
    for i, seed in enumerate(seeds):
        estimator = LLCEstimator(num_steps, CHAINS, 0, learning_rate=step_size, localization=settings["localization"], nbeta=settings["nbeta"])
        estimator.estimate_llc(
            problem.model, problem.loader, criterion_fn=problem.criterion, seed=seed, show_progress=False, current_loss=problem.init_loss, compile="default"
        )
        found[i] = estimator.array_log_l.numpy().mean(0)
    return found


serve("canonical-interp", 1, trace)
