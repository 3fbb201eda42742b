"""For the time to a given error: the stored problems as torch models with their data, and the loop that times iterations and runs units.

A script that uses it gets the threads and the file of a problem as arguments. It answers a line with a number by the seconds of so many iterations divided by
the chains, and a line of JSON by the traces of units, written to a file.
"""

import importlib.metadata
import json
import sys
import time

import numpy as np
import torch


class Rows(torch.utils.data.DataLoader):
    """Batches of rows in a new random order every epoch, without collation: what a shuffling loader gives, at the cost of one index a batch."""

    def __init__(self, x, y, batch):
        super().__init__(torch.utils.data.TensorDataset(x, y), batch_size=batch, drop_last=True)
        object.__setattr__(self, "arrays", (x, y))

    def __iter__(self):
        x, y = self.arrays
        order = torch.randperm(len(x))
        for i in range(0, len(x) - self.batch_size + 1, self.batch_size):
            rows = order[i : i + self.batch_size]
            yield x[rows], y[rows]


class Attention(torch.nn.Module):
    explicit = False
    """Scores and patterns written out, since the fused attention has no second derivative, which vmap over chains asks for."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (torch.nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x, positions):
        b, l, width = x.shape
        split = lambda y: y.view(b, l, self.heads, width // self.heads).transpose(1, 2)
        placed = x + positions
        query, key, value = split(self.query(placed)), split(self.key(placed)), split(self.value(x))
        if self.explicit:
            scores = query @ key.transpose(2, 3) / key.shape[-1] ** 0.5
            mixed = torch.softmax(scores + torch.full((l, l), -1e30).triu(1), -1) @ value
        else:
            mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.output(mixed.transpose(1, 2).reshape(b, l, width))


class Transformer(torch.nn.Module):
    def __init__(self, vocab, context, width, layers, heads):
        super().__init__()
        self.embedding = torch.nn.Embedding(vocab, width)
        self.positions = torch.nn.Parameter(torch.zeros(context, width))
        self.layers = torch.nn.ModuleList(Attention(width, heads) for _ in range(layers))
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(width, eps=1e-6) for _ in range(layers + 1))
        self.unembedding = torch.nn.Linear(width, vocab, bias=False)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for layer, norm in zip(self.layers, self.norms):
            x = x + layer(norm(x), self.positions[: tokens.shape[1]])
        return self.unembedding(self.norms[-1](x))


def transformer(net):
    """The module with the weights of the file, whose matrices of heads are [width, heads, head width], those of the output [heads, head width, width]."""
    num_layers = sum(name.endswith("/query") for name in net.files)
    width, heads, _ = net["layers_0/query"].shape
    weights = {"embedding.weight": net["embedding"], "positions": net["positions"], "unembedding.weight": net["unembedding"].T}
    for i in range(num_layers):
        weights |= {f"layers.{i}.{name}.weight": net[f"layers_{i}/{name}"].reshape(width, width).T for name in ("query", "key", "value", "output")}
    for i, name in enumerate([*(f"norm_{i}" for i in range(num_layers)), "norm_final"]):
        weights |= {f"norms.{i}.weight": net[f"{name}/scale"], f"norms.{i}.bias": net[f"{name}/bias"]}
    model = Transformer(len(net["embedding"]), len(net["positions"]), width, num_layers, heads)
    model.load_state_dict({name: torch.tensor(np.ascontiguousarray(value)) for name, value in weights.items()})
    return model


def dense(net, kind):
    """A deep linear net or a multilayer perceptron."""
    names = sorted(name for name in net.files if name.startswith("layer" if kind == "net" else "w"))
    modules = []
    for i, name in enumerate(names):
        linear = torch.nn.Linear(*net[name].shape, bias=kind != "net")
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(net[name].T))
            if kind != "net":
                linear.bias.copy_(torch.tensor(net[f"b{i}"]))
        modules += [linear] if kind == "net" or i == len(names) - 1 else [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*modules)


def squared(outputs, targets):
    return 0.5 * ((outputs - targets) ** 2).sum(-1)


def classes(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")


def tokens(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs.transpose(1, 2), targets, reduction="none")


class Problem:
    """A model at its weights, inputs, targets, the losses of each example or token, and the settings of the posterior."""

    def __init__(self, path):
        with np.load(path) as net:
            self.settings = json.loads(str(net["settings"]))
            self.kind = self.settings["kind"]
            self.model = transformer(net) if self.kind == "transformer" else dense(net, self.kind)
            self.x = torch.tensor(net["x"])
            self.y = torch.tensor(net["y"], dtype=torch.float32 if self.kind == "net" else torch.int64)
        self.losses = {"net": squared, "mlp": classes, "transformer": tokens}[self.kind]
        self.loader = Rows(self.x, self.y, self.settings["batch_size"])
        with torch.no_grad():
            self.init_loss = self.criterion(self.model(self.x), self.y)

    def criterion(self, outputs, targets):
        return self.losses(outputs, targets).mean()


def serve(package, chains, trace):
    """Answer the lines of the benchmark.

    package: whose version is told.
    chains: of a timed run.
    trace: `trace(problem, step_size, seeds, num_steps)` gives the losses of each step, [seed, step].
    """
    torch.set_num_threads(int(sys.argv[1]))
    problem, path = Problem(sys.argv[2]), sys.argv[2]
    about = {"torch": torch.__version__, package: importlib.metadata.version(package), "threads": int(sys.argv[1]), "chains": chains}
    trace(problem, problem.settings["step_size"], list(range(chains)), 8)
    print("answer", json.dumps(about), flush=True)
    for line in sys.stdin:
        if not line.startswith("{"):
            began = time.perf_counter()
            trace(problem, problem.settings["step_size"], list(range(chains)), int(line))
            print("answer", (time.perf_counter() - began) / chains, flush=True)
            continue
        asked = json.loads(line)
        if asked["file"] != path:
            problem, path = Problem(asked["file"]), asked["file"]
        losses = trace(problem, asked["step_size"], asked["seeds"], asked["steps"])
        llc = problem.settings["nbeta"] * (np.asarray(losses, float) - float(problem.init_loss))
        blocks = llc[:, : llc.shape[1] // asked["block"] * asked["block"]].reshape(len(llc), -1, asked["block"]).mean(-1)
        np.save(asked["out"], blocks.astype(np.float32))
        print("answer", json.dumps({"done": len(llc)}), flush=True)


def is_divergence(error):
    """Whether an exception tells of numbers that are not finite."""
    return any(word in str(error).lower() for word in ("nan", "inf"))
