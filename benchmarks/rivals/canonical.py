"""canonical-interp on a deep linear net: vmap over chains and torch.compile. One minibatch is shared by all chains. Arguments: threads, widths, n, batch."""

import importlib.metadata
import json
import math
import sys
import time

import python312  # noqa: F401
import torch
from canonical_interp.slt import LLCEstimator
from nets import Slices, criterion

CHAINS = 8

threads, widths, n, batch = int(sys.argv[1]), [int(w) for w in sys.argv[2].split("-")], int(sys.argv[3]), int(sys.argv[4])
torch.manual_seed(0)
torch.set_num_threads(threads)
model = torch.nn.Sequential(*[torch.nn.Linear(a, b, bias=False) for a, b in zip(widths, widths[1:])])
x = torch.randn(n, widths[0])
with torch.no_grad():
    y = model(x) + torch.randn(n, widths[-1])


def run(num_steps):
    estimator = LLCEstimator(draws=num_steps, chains=CHAINS, burnin_steps=0, learning_rate=1e-5, localization=1.0, nbeta=n / math.log(n))
    began = time.perf_counter()
    estimator.estimate_llc(
        model, Slices(x, y, batch), criterion_fn=criterion, seed=0, show_progress=False, current_loss=torch.tensor(widths[-1] / 2.0), compile="default"
    )
    return (time.perf_counter() - began) / CHAINS


run(20)
print(
    "answer",
    json.dumps({"torch": torch.__version__, "canonical-interp": importlib.metadata.version("canonical-interp"), "threads": threads, "chains": CHAINS}),
    flush=True,
)
for line in sys.stdin:
    print("answer", run(int(line)), flush=True)
