"""devinterp 2.0.1 on the components of the attention-only transformer, with the weights of `net.npz`.

    components_devinterp2.py THREADS net.npz time                          answers a line "STEPS COMPONENT" with the seconds of so many steps of a chain, by
                                                                           the clock and of the processors
    components_devinterp2.py THREADS net.npz sample FOLDER COMPONENT ...   draws of each component into a store
    components_devinterp2.py THREADS net.npz reduce FOLDER COMPONENT ...   λ̂, influence and susceptibilities of these draws into FOLDER/found.npz

A component is "all", "l0h1" (a head) or "l0h1 query" (its part of one matrix). Settings of the chains are the JSON text `settings` in net.npz.
"""

import importlib.metadata
import json
import shutil
import sys
import tempfile
import time
import warnings

import numpy as np
import torch
import xarray as xr
from datasets import Dataset
from devinterp.slt.bif import compute_bif
from devinterp.slt.llc import compute_llc, llc
from devinterp.slt.sampling import sample
from devinterp.slt.susceptibilities import compute_susceptibilities

threads, path, mode, *rest = sys.argv[1:]
torch.set_num_threads(int(threads))
net = np.load(path)
settings = json.loads(str(net["settings"]))
tokens = net["tokens"]
CHAINS = 2  # of a timed run; they run one after the other, each at the same cost
MATRICES = ("query", "key", "value", "output")
num_layers = sum(name.endswith("/query") for name in net.files)
width, heads, head_width = net["layers_0/query"].shape


class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.output = (torch.nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x, positions):
        b, l, _ = x.shape
        split = lambda y: y.view(b, l, heads, head_width).transpose(1, 2)
        placed = x + positions
        mixed = torch.nn.functional.scaled_dot_product_attention(split(self.query(placed)), split(self.key(placed)), split(self.value(x)), is_causal=True)
        return self.output(mixed.transpose(1, 2).reshape(b, l, width))


class Transformer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(*net["embedding"].shape)
        self.positions = torch.nn.Parameter(torch.zeros(net["positions"].shape))
        self.layers = torch.nn.ModuleList(Attention() for _ in range(num_layers))
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(width, eps=1e-6) for _ in range(num_layers + 1))
        self.unembedding = torch.nn.Linear(width, len(net["embedding"]), bias=False)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for layer, norm in zip(self.layers, self.norms):
            x = x + layer(norm(x), self.positions[: tokens.shape[1]])
        return self.unembedding(self.norms[-1](x))


def filled():
    """The module with the weights of the file, whose matrices of heads are [width, heads, head width], those of the output [heads, head width, width]."""
    model = Transformer()
    weights = {"embedding.weight": net["embedding"], "positions": net["positions"], "unembedding.weight": net["unembedding"].T}
    for i in range(num_layers):
        weights |= {f"layers.{i}.{name}.weight": net[f"layers_{i}/{name}"].reshape(width, width).T for name in MATRICES}
    for i, name in enumerate([*(f"norm_{i}" for i in range(num_layers)), "norm_final"]):
        weights |= {f"norms.{i}.weight": net[f"{name}/scale"], f"norms.{i}.bias": net[f"{name}/bias"]}
    model.load_state_dict({name: torch.tensor(np.ascontiguousarray(value)) for name, value in weights.items()})
    return model


def masks(component):
    """Which weights move: {name: mask}; all others are frozen. None for all."""
    if component == "all":
        return None
    where, *matrix = component.split()
    layer, head = where[1:].split("h")
    rows = torch.zeros(heads, head_width, dtype=torch.bool)
    rows[int(head)] = True
    of_inputs = rows.reshape(-1, 1).expand(width, width)
    found = {name: of_inputs.T if name == "output" else of_inputs for name in MATRICES}
    return {f"layers.{layer}.{name}.weight": found[name].contiguous() for name in (matrix or MATRICES)}


def loss_fn(model, ids):
    logits = model(ids[:, :-1])
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")


model = filled()
dataset = Dataset.from_dict({"input_ids": tokens.tolist()}).with_format("torch")
options = dict(lr=settings["epsilon"], n_beta=settings["nbeta"], localization=settings["localization"], batch_size=settings["batch_size"], loss_fn=loss_fn)


def timed(num_steps, component):
    where = tempfile.mkdtemp()
    began = time.perf_counter(), time.process_time()
    llc(model, dataset, {}, param_masks=masks(component), num_chains=CHAINS, num_draws=num_steps, output_path=where + "/out", **options)
    took = time.perf_counter() - began[0], time.process_time() - began[1]
    shutil.rmtree(where)
    return [seconds / CHAINS for seconds in took]


def drawn(folder, component):
    """Draws every `every` steps, with the losses of all tokens of the data; each chain has batches of its own, and the initial loss is that of all data."""
    num_batches = len(tokens) // settings["batch_size"]
    sample(
        model, dataset, {"data": (dataset, num_batches)}, param_masks=masks(component), num_chains=settings["chains"], num_draws=settings["draws"],
        num_burnin_steps=settings["burn_in"], num_steps_bw_draws=settings["every"], num_init_loss_batches=num_batches,
        match_sampling_input_ids_across_chains=False, output_path=f"{folder}/{component}.zarr", **options,
    )  # fmt: skip


def jackknifed(function, *trees):
    """A result of all chains and its standard error, by leaving out one chain at a time."""
    chains = trees[0].sizes["chain"]
    each = np.stack([function(*(tree.isel(chain=[i for i in range(chains) if i != out]) for tree in trees)) for out in range(chains)])
    return function(*trees), each.std(0) * np.sqrt(chains - 1)


def restored(values, ids):
    """In the order of the data: theirs are shuffled."""
    order = {tuple(row): i for i, row in enumerate(tokens.tolist())}
    return values[np.argsort([order[tuple(row)] for row in ids.tolist()])]


def reduced(folder, components):
    trees = {}
    for name in components:
        with xr.open_datatree(f"{folder}/{name}.zarr", engine="zarr", consolidated=False) as tree:
            trees[name] = xr.DataTree(tree.to_dataset().load())
    ids = trees["all"].dataset["input_ids_data"].values
    found = {"logits": model(torch.tensor(tokens[:4, :-1])).detach().numpy()}
    for name, tree in trees.items():
        result = compute_llc(tree)
        each = settings["nbeta"] * (result["loss_trace"][:, settings["burn_in"] :].mean("step") - result["init_loss"]).values
        on_all = settings["nbeta"] * (tree.dataset["loss_data"].mean(["draw", "batch_data", "token_pos"]) - result["init_loss"]).values
        found |= {f"{name}/llc": each, f"{name}/llc_on_all": on_all, f"{name}/llc_theirs": result["llc_mean"].values}

        def kernel(tree):
            matrix = compute_bif(tree, correlation_method="sequence", compute_covariance=True)["influences"].values
            return restored(restored(matrix, ids).T, ids).T

        found[f"{name}/kernel"], found[f"{name}/kernel_error"] = jackknifed(kernel, tree)
        if name == "all":
            continue

        def response(full, tree):
            flat = compute_susceptibilities({"full": full, name: tree}, "data", include_sampling_task=True)["susceptibilities"]["sus"].values
            return restored(flat.reshape(len(ids), -1), ids)

        found[f"{name}/response"], found[f"{name}/response_error"] = jackknifed(response, trees["all"], tree)
    np.savez(f"{folder}/found.npz", **found)


about = {"torch": torch.__version__, "devinterp": importlib.metadata.version("devinterp"), "threads": int(threads), "chains": CHAINS}
warnings.simplefilter("ignore")
if mode == "time":
    timed(4, "all")
    print("answer", json.dumps(about), flush=True)
    for line in sys.stdin:
        count, component = line.rstrip().split(" ", 1)
        print("answer", timed(int(count), component), flush=True)
elif mode == "sample":
    for name in rest[1:]:
        drawn(rest[0], name)
else:
    reduced(rest[0], rest[1:])
