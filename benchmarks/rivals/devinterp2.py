"""devinterp 2.0.1 `llc` with `observables={}` on the attention-only transformer. Arguments: threads, vocabulary, context, width, layers, heads, n, batch."""

import importlib.metadata
import json
import shutil
import sys
import tempfile
import time

import numpy as np
import torch
from datasets import Dataset
from devinterp.slt.llc import llc
from precision_nets import Transformer

CHAINS = 2  # they run one after the other, each at the same cost

threads, vocab, context, width, layers, heads, n, batch = map(int, sys.argv[1:9])
torch.manual_seed(0)
torch.set_num_threads(threads)


model = Transformer(vocab, context, width, layers, heads)
tokens = np.random.default_rng(0).integers(0, vocab, (n, context + 1))
dataset = Dataset.from_dict({"input_ids": tokens.tolist()}).with_format("torch")


def loss_fn(model, ids):
    logits = model(ids[:, :-1])
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")


def run(num_steps):
    where = tempfile.mkdtemp()
    began = time.perf_counter()
    llc(
        model, dataset, {}, lr=1e-5, n_beta=1000.0, localization=1000.0, loss_fn=loss_fn, num_chains=CHAINS, num_draws=num_steps, batch_size=batch,
        output_path=where + "/out",
    )  # fmt: skip
    took = time.perf_counter() - began
    shutil.rmtree(where)
    return took / CHAINS


run(4)
weights = sum(p.numel() for p in model.parameters())
print(
    "answer",
    json.dumps({"torch": torch.__version__, "devinterp": importlib.metadata.version("devinterp"), "threads": threads, "chains": CHAINS, "weights": weights}),
    flush=True,
)
for line in sys.stdin:
    print("answer", run(int(line)), flush=True)
