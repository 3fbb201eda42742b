"""Local learning coefficients of neural networks, with many SGLD chains over many checkpoints at once.

import jax, jaxllc

est = jaxllc.estimate(loss_fn, params, data, key=jax.random.key(0))
traj = jaxllc.trajectory(loss_fn, jaxllc.OrbaxCheckpoints("run/checkpoints", like=params), data, key=jax.random.key(0))
"""

from jaxllc.checkpoints import OrbaxCheckpoints
from jaxllc.data import InMemory
from jaxllc.diagnostics import Finding
from jaxllc.engine import Trace, sample
from jaxllc.estimators import Estimate, estimate
from jaxllc.free import Free, Paths
from jaxllc.observables import AlongChains
from jaxllc.posterior import LocalPosterior, default_nbeta
from jaxllc.samplers.gradients import ControlVariate, Minibatch
from jaxllc.samplers.mcmc import HMC, MALA, MCLMC, NUTS, BlackJAX
from jaxllc.samplers.precondition import Adam, Identity, RMSProp
from jaxllc.samplers.sghmc import SGHMC
from jaxllc.samplers.sgld import SGLD
from jaxllc.samplers.sgnht import SGNHT
from jaxllc.trajectory import Trajectory, trajectory

__all__ = [
    "HMC",
    "MALA",
    "MCLMC",
    "NUTS",
    "SGHMC",
    "SGLD",
    "SGNHT",
    "Adam",
    "AlongChains",
    "BlackJAX",
    "ControlVariate",
    "Estimate",
    "Finding",
    "Free",
    "Identity",
    "InMemory",
    "LocalPosterior",
    "Minibatch",
    "OrbaxCheckpoints",
    "Paths",
    "RMSProp",
    "Trace",
    "Trajectory",
    "default_nbeta",
    "estimate",
    "sample",
    "trajectory",
]
