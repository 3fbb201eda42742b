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

CHAINS = 2  # they run one after the other, each at the same cost

threads, vocab, context, width, layers, heads, n, batch = map(int, sys.argv[1:9])
torch.manual_seed(0)
torch.set_num_threads(threads)


class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.output = (torch.nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x, positions):
        b, l, _ = x.shape
        split = lambda y: y.view(b, l, heads, width // heads).transpose(1, 2)
        placed = x + positions
        mixed = torch.nn.functional.scaled_dot_product_attention(split(self.query(placed)), split(self.key(placed)), split(self.value(x)), is_causal=True)
        return self.output(mixed.transpose(1, 2).reshape(b, l, width))


class Transformer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(vocab, width)
        self.positions = torch.nn.Parameter(torch.randn(context, width))
        self.layers = torch.nn.ModuleList(Attention() for _ in range(layers))
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(width) for _ in range(layers + 1))
        self.unembedding = torch.nn.Linear(width, vocab, bias=False)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for layer, norm in zip(self.layers, self.norms):
            x = x + layer(norm(x), self.positions[: tokens.shape[1]])
        return self.unembedding(self.norms[-1](x))


model = Transformer()
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
