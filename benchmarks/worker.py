"""The chain-step of one net in a process of its own, which answers like the rivals: `DEVICES=1 python -m benchmarks.worker small`."""

import json
import sys

import jax

from benchmarks.cases import CASES, CHAINS, chain_step

run = chain_step(CASES[sys.argv[1]]())
print("answer", json.dumps({"devices": jax.device_count(), "chains": CHAINS}), flush=True)
for line in sys.stdin:
    print("answer", run(int(line)), flush=True)
