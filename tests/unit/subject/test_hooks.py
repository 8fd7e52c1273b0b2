"""Hook points, against hidden states that transformers itself returns, over many families.

Shape legend: B sequences, T tokens, D model width.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
import transformers as tf
from torch import Tensor, nn

from mistudio.errors import ConfigError, SubjectError
from mistudio.subject import (
    HookPoint,
    ResolvedHook,
    Subject,
    forward_logits,
    observed,
    resolve_hooks,
    run_captured,
    spliced,
    subject_from_model,
    unedited,
)
from mistudio.subject.hooks import available_points
from tests.support.families import CAUSAL, FAMILIES, LAYERS, MLP_READERS, NORMED_AFTER, PARALLEL, PLACES, build_model

SubjectOf = Callable[[str], Subject]
PRE_NORM = tuple(family for family in FAMILIES if family not in (*PARALLEL, *NORMED_AFTER))
STREAM = [(family, kind) for family, kind in PLACES if kind.startswith("resid")]
# In Gemma and OLMo 2 a norm stands between the matrix and what the MLP adds.
PROJECTED = [family for family, kind in PLACES if kind == "mlp_act" and family not in ("gemma2", "gemma3", "olmo2")]


def capture(subject: Subject, ids_BT: Tensor, *names: str) -> list[Tensor]:
    points = [HookPoint.parse(name) for name in names]
    captured = run_captured(subject, resolve_hooks(subject, points), ids_BT)
    return [captured[point] for point in points]


def found_modules(subject: Subject, layer: int) -> dict[str, tuple[str, str]]:
    names = {module: name for name, module in subject.model.named_modules()}
    hooks = resolve_hooks(subject, available_points(subject, layer))
    return {hook.point.kind: (names[hook.place.read.module], hook.place.read.side) for hook in hooks}


@torch.no_grad()
def hidden_states(subject: Subject, ids_BT: Tensor) -> tuple[Tensor, ...]:
    return subject.model(input_ids=ids_BT, output_hidden_states=True).hidden_states


@pytest.mark.parametrize("family", FAMILIES)
def test_the_residual_stream_is_the_hidden_states_that_transformers_returns(
    family: str, subject_of: SubjectOf, ids_BT: Tensor
) -> None:
    subject = subject_of(family)
    expected = hidden_states(subject, ids_BT)
    for layer in range(LAYERS):
        pre, post = capture(subject, ids_BT, f"resid_pre.{layer}", f"resid_post.{layer}")
        torch.testing.assert_close(pre, expected[layer], rtol=0, atol=0)
        if layer < LAYERS - 1:  # transformers returns the last one after the final norm
            torch.testing.assert_close(post, expected[layer + 1], rtol=0, atol=0)


@pytest.mark.parametrize("family", PRE_NORM)
def test_what_the_sublayers_add_leads_from_one_point_of_the_stream_to_the_next(
    family: str, subject_of: SubjectOf, ids_BT: Tensor
) -> None:
    for layer in range(LAYERS):
        names = [f"{kind}.{layer}" for kind in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")]
        pre, attn, mid, mlp, post = capture(subject_of(family), ids_BT, *names)
        torch.testing.assert_close(pre + attn, mid, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mid + mlp, post, rtol=1e-5, atol=1e-5)
        assert min(attn.std(), mlp.std()) > 1e-3


@pytest.mark.parametrize("family", PARALLEL)
def test_a_parallel_block_adds_both_and_has_no_middle(family: str, subject_of: SubjectOf, ids_BT: Tensor) -> None:
    subject = subject_of(family)
    pre, attn, mlp, post = capture(subject, ids_BT, "resid_pre.1", "attn_out.1", "mlp_out.1", "resid_post.1")
    torch.testing.assert_close(pre + attn + mlp, post, rtol=1e-5, atol=1e-5)
    with pytest.raises(SubjectError, match=r"no resid_mid\.1: the block computes attention and MLP in parallel"):
        resolve_hooks(subject, [HookPoint("resid_mid", 1)])


@pytest.mark.parametrize("family", PARALLEL)
def test_in_a_parallel_block_only_attention_sees_other_positions(
    family: str, subject_of: SubjectOf, ids_BT: Tensor
) -> None:
    subject = subject_of(family)
    points = [HookPoint("attn_out", 0), HookPoint("mlp_out", 0)]
    hooks = resolve_hooks(subject, points)
    other_BT = ids_BT.clone()
    other_BT[:, 0] = (other_BT[:, 0] + 5) % 61
    one, two = run_captured(subject, hooks, ids_BT), run_captured(subject, hooks, other_BT)
    assert not torch.allclose(one[points[0]][:, 1:], two[points[0]][:, 1:], atol=1e-4)
    torch.testing.assert_close(one[points[1]][:, 1:], two[points[1]][:, 1:])


@pytest.mark.parametrize("family", NORMED_AFTER)
def test_in_a_post_norm_block_the_middle_is_the_normed_sum(family: str, subject_of: SubjectOf, ids_BT: Tensor) -> None:
    names = [f"{kind}.1" for kind in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")]
    pre, attn, mid, mlp, post = capture(subject_of(family), ids_BT, *names)
    norms = [m for m in subject_of(family).blocks[1].modules() if isinstance(m, nn.LayerNorm)]
    torch.testing.assert_close(norms[0](pre + attn), mid, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norms[1](mid + mlp), post, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", PROJECTED)
def test_what_the_mlp_adds_is_an_affine_function_of_its_activation(family: str, subject_of: SubjectOf) -> None:
    ids_BT = torch.randint(3, 61, (6, 40), generator=torch.Generator().manual_seed(3))
    act, out = capture(subject_of(family), ids_BT, "mlp_act.1", "mlp_out.1")
    assert act.shape[-1] > out.shape[-1]
    act, out = act.flatten(0, 1).double(), out.flatten(0, 1).double()
    inputs = torch.cat([act, torch.ones(len(act), 1, dtype=act.dtype)], dim=1)
    assert len(inputs) > 1.5 * inputs.shape[1]  # so that a perfect fit is no accident
    residual = out - inputs @ torch.linalg.lstsq(inputs, out).solution
    assert residual.abs().max() < 1e-4 * out.std()


def test_the_mlp_activation_of_llama_is_the_gated_product(subject_of: SubjectOf, ids_BT: Tensor) -> None:
    subject = subject_of("llama")
    mid, act = capture(subject, ids_BT, "resid_mid.1", "mlp_act.1")
    block = subject.blocks[1]
    normed = block.post_attention_layernorm(mid)
    expected = nn.functional.silu(block.mlp.gate_proj(normed)) * block.mlp.up_proj(normed)
    torch.testing.assert_close(act, expected)


def test_the_mlp_activation_of_gpt2_is_after_the_nonlinearity(subject_of: SubjectOf, ids_BT: Tensor) -> None:
    subject = subject_of("gpt2")
    mid, act = capture(subject, ids_BT, "resid_mid.2", "mlp_act.2")
    block = subject.blocks[2]
    torch.testing.assert_close(act, block.mlp.act(block.mlp.c_fc(block.ln_2(mid))))


def test_the_mlp_activation_of_bert_is_after_the_nonlinearity(subject_of: SubjectOf, ids_BT: Tensor) -> None:
    subject = subject_of("bert")
    mid, act = capture(subject, ids_BT, "resid_mid.0", "mlp_act.0")
    torch.testing.assert_close(act, subject.blocks[0].intermediate(mid))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mlp_input_is_what_the_first_layer_of_the_mlp_is_given(
    family: str, subject_of: SubjectOf, ids_BT: Tensor
) -> None:
    subject = subject_of(family)
    given: list[Tensor] = []
    reader = subject.blocks[1].get_submodule(MLP_READERS[family])
    handle = reader.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    try:
        forward_logits(subject, ids_BT)
    finally:
        handle.remove()
    [entry] = capture(subject, ids_BT, "mlp_in.1")
    torch.testing.assert_close(entry, given[0].reshape(entry.shape), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("family", "norm"),
    [
        ("llama", "post_attention_layernorm"),
        ("gemma2", "pre_feedforward_layernorm"),
        ("granite", "post_attention_layernorm"),
        ("gpt2", "ln_2"),
    ],
)
def test_the_mlp_input_is_the_normed_middle_of_the_stream(
    family: str, norm: str, subject_of: SubjectOf, ids_BT: Tensor
) -> None:
    mid, entry = capture(subject_of(family), ids_BT, "resid_mid.1", "mlp_in.1")
    torch.testing.assert_close(entry, subject_of(family).blocks[1].get_submodule(norm)(mid))


@pytest.mark.parametrize("family", ["olmo2", *NORMED_AFTER])
def test_where_no_norm_stands_before_the_mlp_its_input_is_the_middle_of_the_stream(
    family: str, subject_of: SubjectOf, ids_BT: Tensor
) -> None:
    mid, entry = capture(subject_of(family), ids_BT, "resid_mid.1", "mlp_in.1")
    torch.testing.assert_close(entry, mid, rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_splicing_in_what_the_mlp_reads_of_another_text_changes_what_it_adds_and_nothing_before(
    family: str, subject_of: SubjectOf, ids_BT: Tensor
) -> None:
    subject = subject_of(family)
    [entry] = resolve_hooks(subject, [HookPoint("mlp_in", 1)])
    attn, own_out, post = capture(subject, ids_BT, "attn_out.1", "mlp_out.1", "resid_post.1")
    other_entry, other_out = capture(subject, ids_BT.flip(1), "mlp_in.1", "mlp_out.1")
    assert not torch.allclose(own_out, other_out, atol=1e-2)
    with spliced(subject, entry, lambda _: other_entry):
        kept, out, changed = capture(subject, ids_BT, "attn_out.1", "mlp_out.1", "resid_post.1")
    torch.testing.assert_close(out, other_out, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(kept, attn, rtol=0, atol=0)
    if family not in NORMED_AFTER:
        torch.testing.assert_close(changed - out, post - own_out, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", NORMED_AFTER)
def test_splicing_at_the_mlp_input_of_a_post_norm_block_leaves_the_stream_that_it_is_read_from(
    family: str, subject_of: SubjectOf, ids_BT: Tensor
) -> None:
    subject = subject_of(family)
    [entry] = resolve_hooks(subject, [HookPoint("mlp_in", 1)])
    own = capture(subject, ids_BT, "resid_mid.1", "mlp_out.1")
    with spliced(subject, entry, torch.zeros_like):
        mid, out = capture(subject, ids_BT, "resid_mid.1", "mlp_out.1")
    torch.testing.assert_close(mid, own[0], rtol=0, atol=0)
    assert not torch.allclose(out, own[1], atol=1e-2)


def test_a_mixture_of_experts_has_no_mlp_activation(subject_of: SubjectOf) -> None:
    with pytest.raises(
        SubjectError, match=r"no mlp_act\.1: .*mixture of experts.*Layer 1 has resid_pre\.1, resid_mid\.1"
    ):
        resolve_hooks(subject_of("mixtral"), [HookPoint("mlp_act", 1)])


def test_a_block_without_two_sublayers_has_only_its_input_and_output(ids_BT: Tensor) -> None:
    config = tf.MambaConfig(vocab_size=61, hidden_size=32, num_hidden_layers=2, state_size=4)
    subject = subject_from_model(tf.MambaForCausalLM(config), None)
    assert available_points(subject, 1) == [HookPoint("resid_pre", 1), HookPoint("resid_post", 1)]
    with pytest.raises(SubjectError, match=r"no two modules .* add up .*Layer 1 has resid_pre\.1, resid_post\.1\."):
        resolve_hooks(subject, [HookPoint("attn_out", 1)])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_modules_are_found_in_two_byte_formats_with_a_few_huge_components(
    family: str, dtype: torch.dtype, subject_of: SubjectOf
) -> None:
    model = build_model(family)
    with torch.no_grad():
        model.get_input_embeddings().weight[:, 3] = 60.0
    subject = subject_from_model(model.to(dtype), None)
    for layer in range(LAYERS):
        assert found_modules(subject, layer) == found_modules(subject_of(family), layer)


def with_attention_scaled(family: str, factor: float, dtype: torch.dtype) -> Subject:
    model = build_model(family).to(dtype)
    for block in subject_from_model(model, None).blocks:
        attention = block.attention.dense if family.startswith("gpt_neox") else block.self_attn.o_proj
        for parameter in attention.parameters():
            parameter.mul_(factor)
    return subject_from_model(model, None)


@pytest.mark.parametrize("family", ["gpt_neox_parallel", "gpt_neox_sequential", "llama"])
@pytest.mark.parametrize("factor", [0.1, 0.01, 0.001])
def test_attention_that_adds_little_more_than_rounding_is_found(
    factor: float, family: str, subject_of: SubjectOf
) -> None:
    weak = with_attention_scaled(family, factor, torch.bfloat16)
    assert found_modules(weak, 1) == found_modules(subject_of(family), 1)


def test_attention_that_adds_nothing_is_not_guessed() -> None:
    subject = with_attention_scaled("gpt_neox_parallel", 0.0, torch.float32)
    assert available_points(subject, 1) == [HookPoint("resid_pre", 1), HookPoint("resid_post", 1)]


@pytest.mark.parametrize(("family", "kind"), PLACES)
def test_splicing_in_the_value_itself_changes_nothing(
    family: str, kind: str, subject_of: SubjectOf, ids_BT: Tensor
) -> None:
    subject = subject_of(family)
    [hook] = resolve_hooks(subject, [HookPoint(kind, 1)])
    shapes = []

    def same(value: Tensor) -> Tensor:
        shapes.append(value.shape)
        return value

    clean = forward_logits(subject, ids_BT)
    with spliced(subject, hook, same):
        logits = forward_logits(subject, ids_BT)
    torch.testing.assert_close(logits, clean, rtol=1e-4, atol=1e-4)
    assert shapes == [(*ids_BT.shape, hook.width)]


@pytest.mark.parametrize(("family", "kind"), PLACES)
def test_what_is_observed_is_what_is_captured_and_the_pass_goes_on_as_it_was(
    family: str, kind: str, subject_of: SubjectOf, ids_BT: Tensor
) -> None:
    subject = subject_of(family)
    [hook] = resolve_hooks(subject, [HookPoint(kind, 1)])
    clean, seen = forward_logits(subject, ids_BT), list[Tensor]()
    with observed(subject, hook, seen.append):
        logits = forward_logits(subject, ids_BT)
    torch.testing.assert_close(logits, clean, rtol=0, atol=0)
    torch.testing.assert_close(seen, [run_captured(subject, [hook], ids_BT)[hook.point]], rtol=0, atol=0)


@pytest.mark.parametrize(("family", "kind"), STREAM)
def test_splicing_in_the_stream_of_another_text_gives_the_predictions_of_that_text(
    family: str, kind: str, subject_of: SubjectOf, ids_BT: Tensor
) -> None:
    subject = subject_of(family)
    [hook] = resolve_hooks(subject, [HookPoint(kind, 1)])
    other_BT = ids_BT.flip(1)
    other_BTD = run_captured(subject, [hook], other_BT)[hook.point]
    expected = forward_logits(subject, other_BT)
    assert not torch.allclose(forward_logits(subject, ids_BT), expected, atol=1e-2)
    with spliced(subject, hook, lambda _: other_BTD):
        torch.testing.assert_close(forward_logits(subject, ids_BT), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("family", "kind"), [place for place in PLACES if place[0] in CAUSAL])
@torch.no_grad()
def test_a_text_read_in_pieces_with_a_cache_is_spliced_as_in_one_pass(
    family: str, kind: str, subject_of: SubjectOf, ids_BT: Tensor
) -> None:
    subject = subject_of(family)
    [hook] = resolve_hooks(subject, [HookPoint(kind, 1)])
    clean_BTV = forward_logits(subject, ids_BT)
    with spliced(subject, hook, lambda x_BTD: x_BTD.flip(2) / 2):
        whole_BTV = forward_logits(subject, ids_BT)
        pieces, cache = [], None
        for piece_BT in ids_BT.split([5, 1, 3], dim=1):
            read = subject.model(input_ids=piece_BT, past_key_values=cache, use_cache=True)
            pieces.append(read.logits)
            cache = read.past_key_values
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole_BTV, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(whole_BTV, clean_BTV, atol=1e-2)


@pytest.mark.parametrize("family", PRE_NORM)
@pytest.mark.parametrize("kind", ["attn_out", "mlp_out"])
def test_removing_what_a_sublayer_adds_leaves_the_stream_as_it_was(
    family: str, kind: str, subject_of: SubjectOf, ids_BT: Tensor
) -> None:
    subject = subject_of(family)
    hook, *around = resolve_hooks(subject, [HookPoint(k, 1) for k in (kind, "resid_pre", "resid_mid", "resid_post")])
    with spliced(subject, hook, torch.zeros_like):
        captured = list(run_captured(subject, around, ids_BT).values())
    before, after = captured[:2] if kind == "attn_out" else captured[1:]
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_removing_both_sublayers_of_a_parallel_block_leaves_the_stream_as_it_was(
    subject_of: SubjectOf, ids_BT: Tensor
) -> None:
    for family in PARALLEL:
        subject = subject_of(family)
        names = ("attn_out", "mlp_out", "resid_pre", "resid_post")
        attn, mlp, pre, post = resolve_hooks(subject, [HookPoint(kind, 1) for kind in names])
        with spliced(subject, attn, torch.zeros_like), spliced(subject, mlp, torch.zeros_like):
            captured = run_captured(subject, [pre, post], ids_BT)
        torch.testing.assert_close(captured[pre.point], captured[post.point])


def test_a_spliced_tensor_of_the_caller_is_not_changed_by_a_model_that_adds_in_place(
    subject_of: SubjectOf, ids_BT: Tensor
) -> None:
    subject = subject_of("falcon_7b")
    [hook] = resolve_hooks(subject, [HookPoint("mlp_out", 1)])
    mine_BTD = torch.zeros(*ids_BT.shape, hook.width)
    with spliced(subject, hook, lambda _: mine_BTD):
        forward_logits(subject, ids_BT)
    assert not mine_BTD.any()


def test_after_the_context_nothing_is_spliced_and_no_hook_is_left(ids_BT: Tensor) -> None:
    subject = subject_from_model(build_model("gpt2"), None)
    clean = forward_logits(subject, ids_BT)
    [hook] = resolve_hooks(subject, [HookPoint("resid_mid", 1)])
    with spliced(subject, hook, torch.zeros_like):
        assert not torch.allclose(forward_logits(subject, ids_BT), clean)
    torch.testing.assert_close(forward_logits(subject, ids_BT), clean, rtol=0, atol=0)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in subject.model.modules())


@pytest.mark.parametrize(("name", "runs"), [("resid_pre.1", [0]), ("attn_out.1", [0]), ("resid_post.1", [0, 1])])
def test_a_capture_stops_at_its_last_hook(name: str, runs: list[int], subject_of: SubjectOf, ids_BT: Tensor) -> None:
    subject = subject_of("llama")
    finished: list[int] = []
    hooks = resolve_hooks(subject, [HookPoint.parse(name), HookPoint("resid_post", 0)])
    handles = [
        block.register_forward_hook(lambda *_, layer=layer: finished.append(layer))
        for layer, block in enumerate(subject.blocks)
    ]
    head = subject.model.lm_head.register_forward_hook(lambda *_: finished.append(-1))
    try:
        run_captured(subject, hooks, ids_BT)
    finally:
        for handle in (*handles, head):
            handle.remove()
    assert finished == runs


def test_forward_passes_beside_each_other_do_not_see_each_others_hooks(subject_of: SubjectOf, ids_BT: Tensor) -> None:
    subject = subject_of("llama")
    first, last = resolve_hooks(subject, [HookPoint("resid_post", layer) for layer in (0, 1)])

    def capture_at(hook: ResolvedHook) -> Tensor:
        with unedited():
            return run_captured(subject, [hook], ids_BT)[hook.point]

    def without(hook: ResolvedHook) -> Tensor:
        with spliced(subject, hook, torch.zeros_like):
            return forward_logits(subject, ids_BT)

    kinds = [partial(do, hook) for do in (capture_at, without) for hook in (first, last)]
    alone = [kind() for kind in kinds]
    with ThreadPoolExecutor(3) as pool:
        for turn, concurrent in enumerate(pool.map(lambda turn: kinds[turn % 4](), range(200))):
            torch.testing.assert_close(concurrent, alone[turn % 4])


def test_captured_tensors_are_detached_and_survive_a_change_in_place(subject_of: SubjectOf, ids_BT: Tensor) -> None:
    subject = subject_of("falcon_7b")
    alone = capture(subject, ids_BT, "mlp_out.1")[0]
    with_more = capture(subject, ids_BT, "mlp_out.1", "resid_post.2")[0]
    torch.testing.assert_close(alone, with_more, rtol=0, atol=0)
    assert not alone.requires_grad
    assert not alone.is_inference()


def test_padding_on_the_right_of_an_encoder_is_masked(subject_of: SubjectOf, ids_BT: Tensor) -> None:
    subject = subject_of("bert")
    [hook] = resolve_hooks(subject, [HookPoint("resid_post", 1)])
    short = run_captured(subject, [hook], ids_BT[:, :5])[hook.point]
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[:, 5:] = 0
    padded = run_captured(subject, [hook], ids_BT, mask_BT)[hook.point][:, :5]
    torch.testing.assert_close(padded, short, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "opt_post_norm", "falcon_40b"])
def test_a_block_is_probed_once(family: str, ids_BT: Tensor) -> None:
    subject = subject_from_model(build_model(family), None)
    passes = []
    subject.model.register_forward_pre_hook(lambda *_: passes.append(1))
    resolve_hooks(subject, [HookPoint("attn_out", 1), HookPoint("mlp_out", 1)])
    resolve_hooks(subject, [HookPoint("mlp_act", 1)])
    assert len(passes) == 1


def test_a_layer_that_does_not_exist_is_refused_with_the_valid_range(subject_of: SubjectOf) -> None:
    for layer in (3, -1):
        with pytest.raises(SubjectError, match=rf"no layer {layer} in LlamaForCausalLM: it has 3 layers, 0 to 2\."):
            resolve_hooks(subject_of("llama"), [HookPoint("resid_post", layer)])


@pytest.mark.parametrize("text", ["resid_past.3", "resid_post", "resid_post.-1", "resid_post.x", "", "3.resid_post"])
def test_what_is_no_hook_point_is_refused_with_the_kinds(text: str) -> None:
    with pytest.raises(ConfigError, match="resid_pre, resid_mid, resid_post, attn_out, mlp_in, mlp_out, mlp_act"):
        HookPoint.parse(text)


def test_an_unknown_kind_is_refused_when_it_is_resolved(subject_of: SubjectOf) -> None:
    with pytest.raises(ConfigError, match="'head_out' is not a kind"):
        resolve_hooks(subject_of("llama"), [HookPoint("head_out", 1)])


def test_a_hook_point_reads_back_as_it_is_written() -> None:
    assert HookPoint.parse(str(HookPoint("mlp_act", 12))) == HookPoint("mlp_act", 12)


def test_a_model_whose_layers_are_in_several_lists_is_refused() -> None:
    config = tf.XLMConfig(vocab_size=61, emb_dim=32, n_layers=2, n_heads=4, max_position_embeddings=64)
    with pytest.raises(SubjectError, match="separate lists"):
        subject_from_model(tf.XLMWithLMHeadModel(config), None)


def test_a_model_that_shares_one_block_between_layers_is_refused() -> None:
    config = tf.AlbertConfig(
        vocab_size=61, embedding_size=16, hidden_size=32, num_hidden_layers=3, num_attention_heads=4
    )
    with pytest.raises(SubjectError, match="no list of 3 transformer blocks"):
        subject_from_model(tf.AlbertForMaskedLM(config), None)
