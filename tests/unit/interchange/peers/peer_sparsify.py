"""Run by an interpreter that has sparsify: loads what was exported, or saves its own with what they compute."""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from sparsify import SparseCoder, SparseCoderConfig


def outputs(sae, x_TD):
    """Encodings and reconstructions."""
    with torch.no_grad():
        found = sae.encode(x_TD)
        acts_TF = torch.zeros(len(x_TD), sae.num_latents).scatter(1, found.top_indices, found.top_acts)
        return {"acts": acts_TF, "out": sae(x_TD).sae_out.contiguous()}


def save(name, folder, x_TD):
    config = SparseCoderConfig(k=5, num_latents=64, transcode="transcoder" in name, skip_connection="skip" in name)
    sae = SparseCoder(x_TD.shape[1], config)
    for weight in sae.parameters():
        weight.data = torch.randn_like(weight) * 0.4
    sae.save_to_disk(folder)
    return outputs(sae, x_TD)


if __name__ == "__main__":
    torch.manual_seed(1)
    for folder in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir()):
        x_TD = load_file(Path(sys.argv[1]) / "rows.safetensors")["x"]
        if sys.argv[2] == "load":
            found = outputs(SparseCoder.load_from_disk(folder), x_TD)
        else:
            found = save(folder.name, folder, x_TD)
        save_file(found, folder / "outputs.safetensors")
