"""Local learning coefficients of neural networks, with many chains over many checkpoints at once.

import jax, jaxllc

est = jaxllc.estimate(loss_fn, params, data, key=jax.random.key(0))  # calibrates first
cal = jaxllc.calibrate(loss_fn, params, data, key=jax.random.key(0))  # the same choice as a value: cal.settings, cal.reasons
settings = jaxllc.Settings(sampler=jaxllc.SGLD(1e-5), nbeta=1000.0, localization=100.0, num_draws=500)  # or by hand
traj = jaxllc.trajectory(loss_fn, jaxllc.OrbaxCheckpoints("run/checkpoints", like=params), data, settings, key=jax.random.key(0))
"""

import importlib.metadata

from jaxllc._plain import Plain
from jaxllc.calibrate import Calibration, calibrate
from jaxllc.checkpoints import OrbaxCheckpoints
from jaxllc.data import InMemory
from jaxllc.diagnostics import Finding
from jaxllc.engine import sample
from jaxllc.estimate import Estimate, estimate
from jaxllc.influence import Covariances, influence, loss_kernel, susceptibilities
from jaxllc.parts import Heads, Neurons, Slice
from jaxllc.posterior import LocalPosterior, default_nbeta
from jaxllc.probes import AlongChains, Probe
from jaxllc.recording import Trace
from jaxllc.safetensors_checkpoints import SafetensorsCheckpoints
from jaxllc.sampler import Info, NamedSchedule, Sampler, SteppedSampler
from jaxllc.samplers.adaptive_hmc import AdaptiveHMC
from jaxllc.samplers.full_batch import BlackJAX
from jaxllc.samplers.gradients import ControlVariate, Minibatch
from jaxllc.samplers.mcmc import HMC, MALA, MCLMC, NUTS
from jaxllc.samplers.precondition import Adam, Identity, RMSProp
from jaxllc.samplers.sghmc import SGHMC
from jaxllc.samplers.sgld import SGLD
from jaxllc.samplers.sgnht import SGNHT
from jaxllc.save_schedule import SaveSchedule
from jaxllc.selections import Free, Paths
from jaxllc.settings import Settings
from jaxllc.stream import Stream
from jaxllc.trajectory import Trajectory, trajectory
from jaxllc.trajectory import open_store as open

__version__ = importlib.metadata.version("jaxllc")

__all__ = [
    "HMC",
    "MALA",
    "MCLMC",
    "NUTS",
    "SGHMC",
    "SGLD",
    "SGNHT",
    "Adam",
    "AdaptiveHMC",
    "AlongChains",
    "BlackJAX",
    "Calibration",
    "ControlVariate",
    "Covariances",
    "Estimate",
    "Finding",
    "Free",
    "Heads",
    "Identity",
    "InMemory",
    "Info",
    "LocalPosterior",
    "Minibatch",
    "NamedSchedule",
    "Neurons",
    "OrbaxCheckpoints",
    "Paths",
    "Plain",
    "Probe",
    "RMSProp",
    "SafetensorsCheckpoints",
    "Sampler",
    "SaveSchedule",
    "Settings",
    "Slice",
    "SteppedSampler",
    "Stream",
    "Trace",
    "Trajectory",
    "__version__",
    "calibrate",
    "default_nbeta",
    "estimate",
    "influence",
    "loss_kernel",
    "open",
    "sample",
    "susceptibilities",
    "trajectory",
]
