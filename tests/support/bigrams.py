"""A language model made by hand: what comes next is written down, latent by latent of an exact autoencoder.

A token's embedding is the sum of the directions of its latents, and a large constant that holds the final norm still;
attention and MLP add nothing. So the logits after a token are the sum of what its latents say.
"""

from collections.abc import Mapping, Sequence

import torch
import transformers as tf
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from mistudio.instrument import Ends, PlacedAutoencoder, Session
from mistudio.sae import StandardConfig, new_autoencoder
from mistudio.subject import HookPoint, resolve_hooks, subject_from_model
from mistudio.verify.ablation import Model

VOCABULARY = 32
_WIDTH = 64
_CONSTANT = 100.0  # in the last component; beside it the latents hardly change the norm


def bigram_model(
    latents: Mapping[int, Sequence[int]],
    says: Mapping[int, Mapping[int, float]],
    words: Mapping[int, str] | None = None,
) -> Model:
    """A model of one block, and an autoencoder behind it that reads and rebuilds each latent exactly.

    Args:
        latents: those that are active on a token, each with the value 1; of the first 63.
        says: the logits that a latent adds, by the token that comes next.
        words: what tokens are called; </s> ends a text.
    """
    config = tf.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=_WIDTH,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        rms_norm_eps=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = tf.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.norm.weight.fill_(_CONSTANT / _WIDTH**0.5)  # the root mean square of the constant alone
        embedding_VD = model.get_input_embeddings().weight
        embedding_VD[:, -1] = _CONSTANT
        for token, active in latents.items():
            embedding_VD[token, list(active)] = 1.0
        for latent, logits in says.items():
            for token, logit in logits.items():
                model.lm_head.weight[token, latent] = logit
    subject = subject_from_model(model, _tokenizer(words or {}))
    sae = new_autoencoder(StandardConfig(width=_WIDTH), _WIDTH)
    with torch.no_grad():
        for weight_FD in (sae.W_enc, sae.W_dec):
            weight_FD.copy_(torch.eye(_WIDTH))
            weight_FD[-1] = 0.0
    (hook,) = resolve_hooks(subject, [HookPoint.parse("resid_post.0")])
    placed = PlacedAutoencoder(sae.requires_grad_(requires_grad=False), Ends(hook, hook), "made by hand", "0")
    return Model(Session(subject, [placed]))


def _tokenizer(words: Mapping[int, str]) -> tf.PreTrainedTokenizerFast:
    known = {words.get(number, f"w{number}"): number for number in range(VOCABULARY)}
    end = "</s>" if "</s>" in known else None
    return tf.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(known, unk_token="w0")), eos_token=end)
