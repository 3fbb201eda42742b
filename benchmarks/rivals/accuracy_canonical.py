"""Estimates of canonical-interp for the accuracy benchmark. Arguments: stored nets, batch. One minibatch is shared by all chains."""

import sys

import python312  # noqa: F401
from canonical_interp.slt import LLCEstimator
from nets import criterion, serve


def run(model, loader, init_loss, method, step_size, nbeta, localization, num_chains, num_draws, num_burn_in):
    assert method == "SGLD"
    estimator = LLCEstimator(num_draws, num_chains, num_burn_in, learning_rate=step_size, localization=localization, nbeta=nbeta)
    estimator.estimate_llc(model, loader, criterion_fn=criterion, seed=0, show_progress=False, current_loss=init_loss, compile="default")
    return estimator.get_metrics()["llcs"]


serve(sys.argv[1], int(sys.argv[2]), run)
