"""Run by an interpreter that has dictionary_learning: loads our exports, or saves its own with what they compute."""

import json
import sys
from pathlib import Path

import torch
from dictionary_learning import dictionary
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from dictionary_learning.utils import load_dictionary
from safetensors.torch import load_file, save_file

KINDS = {
    "AutoEncoder": dictionary.AutoEncoder,
    "AutoEncoderNew": dictionary.AutoEncoderNew,
    "GatedAutoEncoder": dictionary.GatedAutoEncoder,
    "JumpReluAutoEncoder": dictionary.JumpReluAutoEncoder,
    "AutoEncoderTopK": lambda width_in, width: AutoEncoderTopK(width_in, width, 5),
    "BatchTopKSAE": lambda width_in, width: BatchTopKSAE(width_in, width, 5),
    "MatryoshkaBatchTopKSAE": lambda width_in, width: MatryoshkaBatchTopKSAE(width_in, width, 5, [7, 33, 24]),
}


def outputs(sae, x_TD):
    """Encodings and reconstructions."""
    with torch.no_grad():
        return {"acts": sae.encode(x_TD).contiguous(), "out": sae(x_TD).contiguous()}


def save(name, folder, x_TD):
    sae = KINDS[name](x_TD.shape[1], 64)
    for weight in sae.parameters():
        weight.data = torch.randn_like(weight) * 0.4
    if name in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        sae.threshold.fill_(0.9)
    torch.save(sae.state_dict(), folder / "ae.pt")
    config = {"trainer": {"dict_class": name, "k": 5, "layer": 3, "submodule_name": "resid_post_layer_3"}, "buffer": {}}
    (folder / "config.json").write_text(json.dumps(config))
    return outputs(sae, x_TD)


if __name__ == "__main__":
    torch.manual_seed(1)
    for folder in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir()):
        x_TD = load_file(Path(sys.argv[1]) / "rows.safetensors")["x"]
        if sys.argv[2] == "load":
            found = outputs(load_dictionary(str(folder), "cpu")[0], x_TD)
        else:
            found = save(folder.name, folder, x_TD)
        save_file(found, folder / "outputs.safetensors")
