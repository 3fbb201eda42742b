"""Write the small random models in `language_models/` with torch and transformers, which the tests themselves do not need.

    python -m venv /tmp/hf && /tmp/hf/bin/pip install torch==2.13.0 transformers==5.24.0 safetensors
    /tmp/hf/bin/python tests/data/make_language_models.py

Each folder has `config.json` and safetensors files as `save_pretrained` writes them, and `logits.npz` with `tokens`, the `logits` in float32 and
`logits_bf16`, those of the same model in bfloat16. All weights are random, biases and scales of norms too, so that each of them matters to the logits.
"""

import logging
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

SIZES_GPT2 = dict(vocab_size=24, n_positions=16, n_embd=16, n_layer=2, n_head=2, n_inner=20)
SIZES_NEOX = dict(vocab_size=24, max_position_embeddings=16, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20)
ROPE = {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.5}

CONFIGS = {
    "gpt2": lambda: transformers.GPT2Config(**SIZES_GPT2, layer_norm_epsilon=1e-2, bos_token_id=0, eos_token_id=0),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**SIZES_NEOX, rope_parameters=dict(ROPE)),
    "gpt_neox_sequential": lambda: transformers.GPTNeoXConfig(
        **SIZES_NEOX, rope_parameters=ROPE | {"partial_rotary_factor": 0.25}, use_parallel_residual=False, hidden_act="gelu_new", layer_norm_eps=1e-2
    ),
}
SHARDED = ("gpt_neox_sequential",)


def random_model(config, seed):
    """A model in evaluation mode with every parameter moved by a normal number of standard deviation 0.3."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def logits_of(model, tokens):
    """The logits of all positions, as float32."""
    with torch.no_grad():
        return model(torch.as_tensor(tokens)).logits.float().numpy()


def main(folder):
    """Write all models."""
    logging.disable()
    tokens = np.random.default_rng(0).integers(0, 24, (2, 12))
    for seed, (name, config) in enumerate(CONFIGS.items()):
        model = random_model(config(), seed)
        model.save_pretrained(folder / name, max_shard_size=8000 if name in SHARDED else "1GB")
        (folder / name / "generation_config.json").unlink(missing_ok=True)
        logits = logits_of(model, tokens)
        np.savez(folder / name / "logits.npz", tokens=tokens, logits=logits, logits_bf16=logits_of(model.bfloat16(), tokens))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "language_models")
