"""devinterp 1.3.2 on a deep linear net, with its cheapest loader (batches sliced once) or the stock one. Arguments: threads, widths, n, batch, loader.

Its `cores=2` spawns a process for each chain; the benchmark may start this script twice instead, which saves it their start.
"""

import importlib.metadata
import json
import math
import sys
import time

import torch
from devinterp.optim.sgld import SGLD
from devinterp.slt.llc import LLCEstimator
from devinterp.slt.sampler import sample
from nets import Slices

CHAINS = 2  # they run one after the other, each at the same cost

threads, widths, n, batch, loader_kind = int(sys.argv[1]), [int(w) for w in sys.argv[2].split("-")], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
torch.manual_seed(0)
torch.set_num_threads(threads)
model = torch.nn.Sequential(*[torch.nn.Linear(a, b, bias=False) for a, b in zip(widths, widths[1:])])
x = torch.randn(n, widths[0])
with torch.no_grad():
    y = model(x) + torch.randn(n, widths[-1])


stock = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=batch, shuffle=True)
loader = Slices(x, y, batch) if loader_kind == "slices" else stock


def evaluate(model, data):
    inputs, targets = data
    return 0.5 * ((model(inputs) - targets) ** 2).sum(-1).mean(), {}


def run(num_steps):
    nbeta = n / math.log(n)
    estimator = LLCEstimator(CHAINS, num_steps, init_loss=torch.tensor(widths[-1] / 2.0), nbeta=nbeta)
    began = time.perf_counter()
    sample(
        model, loader, callbacks=[estimator], evaluate=evaluate, sampling_method=SGLD,
        optimizer_kwargs=dict(lr=1e-5, nbeta=nbeta, localization=1.0), num_draws=num_steps, num_chains=CHAINS, num_burnin_steps=0,
        init_loss=torch.tensor(widths[-1] / 2.0), seed=0, verbose=False,
    )  # fmt: skip
    return (time.perf_counter() - began) / CHAINS


run(20)
print(
    "answer", json.dumps({"torch": torch.__version__, "devinterp": importlib.metadata.version("devinterp"), "threads": threads, "chains": CHAINS}), flush=True
)
for line in sys.stdin:
    print("answer", run(int(line)), flush=True)
