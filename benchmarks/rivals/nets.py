"""For the accuracy benchmark: the deep linear nets that it stored, as torch models with their data, and the loop that answers its questions."""

import json
import math
import sys

import numpy as np
import torch


class Slices(torch.utils.data.DataLoader):
    """Fixed batches, sliced once: no indexing and no collation at a step. The examples are independent, so no shuffling is needed."""

    def __init__(self, x, y, batch):
        super().__init__(torch.utils.data.TensorDataset(x, y), batch_size=batch, drop_last=True)
        object.__setattr__(self, "batches", [(x[i : i + batch], y[i : i + batch]) for i in range(0, len(x) - batch + 1, batch)])

    def __iter__(self):
        return iter(self.batches)


def criterion(outputs, targets):
    """Nats under unit output noise, up to a constant."""
    return 0.5 * ((outputs - targets) ** 2).sum(-1).mean()


def load(path, k, batch):
    """The net of number k at its true weights, its batches, and the loss of all data there."""
    with np.load(path) as stored:
        layers = [torch.from_numpy(stored[name]) for name in sorted(stored.files) if name.startswith(f"{k}/layer")]
        x, noise, product, signs = (torch.from_numpy(stored[name]) for name in ("x", "noise", f"{k}/product", f"{k}/signs"))
    model = torch.nn.Sequential(*[torch.nn.Linear(*layer.shape, bias=False) for layer in layers])
    with torch.no_grad():
        for linear, layer in zip(model, layers, strict=True):
            linear.weight.copy_(layer.T)
        y = x @ product + noise * signs
        return model, Slices(x, y, batch), criterion(model(x), y)


def serve(path, batch, run):
    """Answer each line of JSON, the options of `run` and a net's number, with the estimate and its standard error over chains."""
    torch.set_num_threads(1)
    print("answer", json.dumps({"torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        options = json.loads(line)
        model, loader, init_loss = load(path, options.pop("net"), batch)
        try:
            chains = np.asarray(run(model, loader, init_loss, **options), float)
        except RuntimeError as error:
            if "NaN" not in str(error):
                raise
            chains = np.full(2, math.nan)
        found = {"llc": chains.mean(), "std_error": chains.std(ddof=1) / len(chains) ** 0.5}
        print("answer", json.dumps({name: value if math.isfinite(value) else None for name, value in found.items()}), flush=True)
