"""Estimates of devinterp 1.3.2 for the accuracy benchmark. Arguments: stored nets, batch."""

import sys

from devinterp.optim.sgmcmc import SGMCMC
from devinterp.slt.llc import LLCEstimator
from devinterp.slt.sampler import sample
from nets import criterion, serve

METHODS = {"SGLD": SGMCMC.sgld, "RMSprop-SGLD": SGMCMC.rmsprop_sgld}


def evaluate(model, data):
    return criterion(model(data[0]), data[1]), {}


def run(model, loader, init_loss, method, step_size, nbeta, localization, num_chains, num_draws, num_burn_in):
    estimator = LLCEstimator(num_chains, num_draws, init_loss=init_loss, nbeta=nbeta)
    sample(
        model, loader, callbacks=[estimator], evaluate=evaluate, sampling_method=METHODS[method],
        optimizer_kwargs=dict(lr=step_size, nbeta=nbeta, localization=localization), num_draws=num_draws, num_chains=num_chains,
        num_burnin_steps=num_burn_in, init_loss=init_loss, seed=0, verbose=False,
    )  # fmt: skip
    results = estimator.get_results()
    return [results[f"llc-chain/{i}"] for i in range(num_chains)]


serve(sys.argv[1], int(sys.argv[2]), run)
