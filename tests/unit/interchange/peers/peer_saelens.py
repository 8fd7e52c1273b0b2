"""Run by an interpreter that has SAELens: loads what was exported, or saves its own with what they compute."""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def outputs(sae, x_TD):
    """Encodings and reconstructions."""
    with torch.no_grad():
        return {"acts": sae.encode(x_TD).contiguous(), "out": sae(x_TD).contiguous()}


def load(folder, x_TD):
    from sae_lens import SAE

    return outputs(SAE.load_from_disk(folder), x_TD)


def save(name, folder, x_TD):
    import sae_lens
    from sae_lens.registry import get_sae_class

    kind, config_kind = get_sae_class(name.split("-")[0])
    extra = {"k": 5, "rescale_acts_by_decoder_norm": "scaled" in name} if name.startswith("topk") else {}
    if "transcoder" in name:
        extra = {"apply_b_dec_to_input": False, "d_out": 9}
    metadata = sae_lens.saes.sae.SAEMetadata(hook_name="blocks.3.hook_resid_mid", hook_name_out="blocks.3.hook_mlp_out")
    sae = kind(config_kind(d_in=x_TD.shape[1], d_sae=64, metadata=metadata, **extra))
    for weight in sae.parameters():
        weight.data = torch.randn_like(weight) * 0.4
    sae.save_model(folder)
    return outputs(sae, x_TD)


if __name__ == "__main__":
    torch.manual_seed(1)
    for folder in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir()):
        x_TD = load_file(Path(sys.argv[1]) / "rows.safetensors")["x"]
        found = load(folder, x_TD) if sys.argv[2] == "load" else save(folder.name, folder, x_TD)
        save_file(found, folder / "outputs.safetensors")
