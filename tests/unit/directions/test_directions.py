"""Directions: made of one half of the examples, tried on the other beside controls, and bound to their model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from mistudio import steps
from mistudio.artifacts import (
    Artifact,
    Draft,
    Recipe,
    Store,
    Summary,
    add_reference,
    open_artifact,
    open_store,
    produce,
)
from mistudio.cli import app
from mistudio.directions import example_pooling
from mistudio.directions.artifact import RECORD_NAME, TENSOR_NAME, VECTOR_NAME, find_direction, open_direction
from mistudio.directions.config import DirectionConfig
from mistudio.directions.example_files import Files
from mistudio.directions.examples import Example
from mistudio.directions.fit import logistic, mean_difference, split
from mistudio.directions.step import direction
from mistudio.errors import ConfigError, DamagedArtifact, InputError, NotFound, SubjectError
from mistudio.instrument import Session, open_session
from mistudio.instrument.texts import Text, TextReader
from mistudio.subject import HookPoint, SubjectSource, load_subject, resolve_hooks, run_captured
from tests.support.labelled_texts import LANDS, SEAS, labelled, made_up, write_lines
from tests.support.tiny import WIDTH, tiny_llama
from tests.support.tiny_run import CPU

HOOK = "resid_post.1"


def made(store: Store, source: SubjectSource, lines: Sequence[Any], **settings: Any) -> Artifact:
    path = write_lines(Path(store.url).parent / "examples.jsonl", lines)
    config = DirectionConfig.model_validate({"hook": HOOK, **settings})
    return direction(store, Files.read(path), source, CPU, config).artifact


def alone(source: SubjectSource, texts: Sequence[Text]) -> list[torch.Tensor]:
    """Activations of each text, each read by itself."""
    subject = load_subject(source, CPU)
    (hook,) = resolve_hooks(subject, [HookPoint.parse(HOOK)])
    found = TextReader(subject).read(texts)
    prefix = found.sequences.num_prefix
    return [
        run_captured(subject, [hook], torch.from_numpy(ids)[None].long())[hook.point][0, prefix:]
        for ids in found.sequences.token_ids
    ]


@pytest.mark.parametrize("method", ["mean_difference", "logistic"])
def test_what_differs_is_told_apart_on_held_out_examples_and_controls_are_at_chance(
    method: str, store: Store, source: SubjectSource
) -> None:
    summary = made(store, source, labelled(60), method=method).manifest.summary
    assert summary["auroc"] > 0.95
    assert summary["auroc_low"] > 0.9
    for name in ("control.random_auroc", "control.shuffled_auroc"):
        assert summary[f"{name}_low"] < 0.5 < summary[f"{name}_high"]
        assert 0.3 < summary[name] < 0.7
    assert "warning" not in summary


@pytest.mark.parametrize("method", ["mean_difference", "logistic"])
def test_where_nothing_differs_the_figure_is_at_chance(method: str, store: Store, source: SubjectSource) -> None:
    texts = made_up(SEAS, 120, 5)
    lines = [{"text": text, "label": number % 2} for number, text in enumerate(texts)]
    summary = made(store, source, lines, method=method).manifest.summary
    assert summary["auroc_low"] < 0.5 < summary["auroc_high"]


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_the_vector_is_the_difference_of_the_means_of_the_fitting_half(
    pool: str, store: Store, source: SubjectSource
) -> None:
    lines = labelled(20)
    found = open_direction(made(store, source, lines, pool=pool))
    own = alone(source, [line["text"] for line in lines])
    acts_ED = torch.stack([acts[-1] if pool == "last" else acts.mean(dim=0) for acts in own]).double().numpy()
    is_E = np.array([bool(line["label"]) for line in lines])
    fitting_E, heldout_E = split(is_E, 0)
    expected_D = mean_difference(acts_ED[fitting_E], is_E[fitting_E])
    np.testing.assert_allclose(found.vector_D.numpy(), expected_D, rtol=1e-4, atol=1e-6)
    assert found.record.norm == pytest.approx(np.linalg.norm(expected_D), rel=1e-4)
    norms = torch.cat(own).norm(dim=1).numpy()
    assert found.record.activation_norm == pytest.approx(float(np.median(norms)), rel=1e-4)
    assert set(fitting_E) | set(heldout_E) == set(range(40))
    assert len(fitting_E) == len(heldout_E) == 20


def test_a_probe_is_as_long_as_the_classes_lie_apart_along_it(store: Store, source: SubjectSource) -> None:
    lines = labelled(20)
    vector_D = open_direction(made(store, source, lines, method="logistic")).vector_D.double().numpy()
    acts_ED = torch.stack([acts.mean(dim=0) for acts in alone(source, [line["text"] for line in lines])])
    is_E = np.array([bool(line["label"]) for line in lines])
    fitting_E = split(is_E, 0).fitting_E
    rows_ED, own_E = acts_ED.double().numpy()[fitting_E], is_E[fitting_E]
    normal_D = logistic(rows_ED, own_E, 1.0)
    length = np.linalg.norm(vector_D)
    np.testing.assert_allclose(vector_D / length, normal_D / np.linalg.norm(normal_D), rtol=1e-2, atol=1e-3)
    assert length == pytest.approx(vector_D / length @ mean_difference(rows_ED, own_E), rel=1e-4)


def test_halves_hold_each_class_and_each_example_once() -> None:
    is_E = np.array([True] * 9 + [False] * 31)
    fitting_E, heldout_E = split(is_E, 3)
    assert sorted([*fitting_E, *heldout_E]) == list(range(40))
    assert (is_E[fitting_E].sum(), is_E[heldout_E].sum()) == (5, 4)
    assert (fitting_E != split(is_E, 4).fitting_E).any()


def chats(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "messages": [{"role": "user", "content": "the"}, {"role": "assistant", "content": line["text"]}],
            "label": line["label"],
        }
        for line in lines
    ]


@pytest.mark.parametrize("roles", [None, ("assistant",)])
def test_of_chats_the_messages_are_pooled_without_special_and_template_tokens(
    roles: tuple[str, ...] | None, store: Store, source: SubjectSource
) -> None:
    lines = chats([{**line, "text": f"{line['text']}</s> hat"} for line in labelled(10)])
    found = open_direction(made(store, source, lines, roles=roles))
    subject, means = load_subject(source, CPU), []
    texts = [line["messages"] for line in lines]
    for chat, acts_TD, tokens in zip(texts, alone(source, texts), TextReader(subject).read(texts).texts, strict=True):
        where = [tokens.text.index(f"\n{message['content']}</s>") + 1 for message in chat]
        spans = list(zip(where, chat, strict=True))[1 if roles else 0 :]
        kept = [
            any(first < start + len(message["content"]) and last > start for start, message in spans)
            for first, last in tokens.offsets.tolist()
        ]
        assert 1 in tokens.token_ids[np.array(kept)]  # </s>, which a message spells
        kept = [inside and token != 1 for inside, token in zip(kept, tokens.token_ids.tolist(), strict=True)]
        means.append(acts_TD[torch.tensor(kept)].mean(dim=0))
    is_E = np.array([bool(line["label"]) for line in lines])
    fitting_E = split(is_E, 0).fitting_E
    expected_D = mean_difference(torch.stack(means).double().numpy()[fitting_E], is_E[fitting_E])
    np.testing.assert_allclose(found.vector_D.numpy(), expected_D, rtol=1e-4, atol=1e-6)


def test_chats_that_a_template_cuts_are_pooled_whole_and_counted_and_roles_cannot_be_told(
    store: Store, source: SubjectSource, tmp_path: Path
) -> None:
    shouting = tiny_llama(tmp_path / "shouting")
    path = Path(shouting.path) / "tokenizer_config.json"
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'][:2] }}</s>{% endfor %}"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
    lines = chats(labelled(8))
    assert made(store, shouting, lines).manifest.summary["chats_with_template"] == 16
    assert made(store, source, lines).manifest.summary["chats_with_template"] == 0
    with pytest.raises(SubjectError, match="the roles assistant cannot be told"):
        made(store, shouting, lines, roles=("assistant",))


def test_an_example_without_a_token_is_counted_as_empty(store: Store, source: SubjectSource) -> None:
    lines = chats(labelled(10))
    lines[0]["messages"] = [{"role": "assistant", "content": ""}, {"role": "user", "content": "hat"}]
    summary = made(store, source, lines, roles=("assistant",)).manifest.summary
    assert (summary["empty"], summary["positive"], summary["negative"]) == (1, 9, 10)


def test_few_examples_are_warned_of_in_the_summary_and_all_left_out_are_counted(
    store: Store, source: SubjectSource
) -> None:
    lines = [*labelled(49), {"text": "hat", "label": None}, {"text": "", "label": 1}]
    summary = made(store, source, lines).manifest.summary
    assert summary["warning"] == "fewer than 50 examples of a class: the figures are rough"
    assert (summary["positive"], summary["negative"], summary["unlabelled"], summary["empty"]) == (49, 49, 1, 1)


def test_classes_that_do_not_differ_at_all_are_refused(store: Store, source: SubjectSource) -> None:
    lines = [{"text": f"{line['text']} hat", "label": line["label"]} for line in labelled(8)]
    with pytest.raises(InputError, match="do not differ: take another hook point or examples"):
        made(store, source, lines, hook="resid_pre.0", pool="last")  # of the last token's embedding nothing is left


def test_a_killed_run_goes_on_at_the_next_block_and_ends_with_the_same_bytes(
    tmp_path: Path, source: SubjectSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example_pooling, "_BLOCK_EXAMPLES", 8)
    whole = made(open_store(str(tmp_path / "whole")), source, labelled(12))
    save, saved = example_pooling._save_block, list[Path]()

    def counted(session: Session, examples: Sequence[Example], config: DirectionConfig, path: Path) -> None:
        if len(saved) == 2:
            raise KeyboardInterrupt
        save(session, examples, config, path)
        saved.append(path)

    monkeypatch.setattr(example_pooling, "_save_block", counted)
    with pytest.raises(KeyboardInterrupt):
        made(open_store(str(tmp_path / "cut")), source, labelled(12))
    saved.clear()
    assert made(open_store(str(tmp_path / "cut")), source, labelled(12)).digest == whole.digest
    assert len(saved) == 1


def published(store: Store, record: dict[str, Any], vector_D: torch.Tensor) -> Artifact:
    """An artifact of kind direction with this content."""

    def build(draft: Draft) -> Summary:
        draft.write(RECORD_NAME, json.dumps(record).encode())
        with draft.stage(VECTOR_NAME) as path:
            save_file({TENSOR_NAME: vector_D}, path)
        return {}

    return produce(store, Recipe(kind="direction", config={"record": record, "vector": str(vector_D)}), "t", build)[0]


@pytest.mark.parametrize("missing", ["hook", "subject_digest"])
def test_a_vector_without_its_hook_point_or_its_model_is_refused(
    missing: str, store: Store, source: SubjectSource
) -> None:
    good = made(store, source, labelled(8))
    record = json.loads(good.file(RECORD_NAME).read_bytes())
    vector_D = open_direction(good).vector_D
    assert open_direction(published(store, record, vector_D)).record.hook == HOOK
    del record[missing]
    with pytest.raises(InputError, match=f"cannot be used as a direction: {missing}: field required"):
        open_direction(published(store, record, vector_D))


def test_a_vector_of_another_width_or_one_that_is_not_finite_is_refused(store: Store, source: SubjectSource) -> None:
    good = made(store, source, labelled(8))
    record, vector_D = json.loads(good.file(RECORD_NAME).read_bytes()), open_direction(good).vector_D
    for wrong_D in (vector_D[:-1].clone(), torch.full_like(vector_D, torch.inf)):
        with pytest.raises(DamagedArtifact, match="holds no finite vector of 32 components"):
            open_direction(published(store, record, wrong_D))
    with pytest.raises(ConfigError, match="'middle' is not a hook point"):
        open_direction(published(store, {**record, "hook": "middle"}, vector_D))


def test_a_direction_belongs_to_the_model_that_it_was_made_in(
    store: Store, source: SubjectSource, tmp_path: Path
) -> None:
    found = open_direction(made(store, source, labelled(8)))
    with open_session((), source, CPU) as session:
        found.check_subject(session.source)
    other = tiny_llama(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="was made in folder:model0, not in folder:other, which has other content"):
        found.check_subject(other)
    with pytest.raises(InputError, match="a model of unknown origin"):
        found.check_subject(None)


def test_a_direction_is_found_by_its_name_and_by_its_prefix(store: Store, source: SubjectSource) -> None:
    artifact = made(store, source, labelled(8))
    with pytest.raises(NotFound, match="no direction called 'sea'"):
        find_direction(store, "sea")
    add_reference(store, "direction", "sea", artifact, "me")
    by_name, by_prefix = find_direction(store, "sea"), find_direction(store, artifact.uri)
    assert (by_name.name, by_prefix.name) == ("sea", artifact.uri)
    assert by_name.digest == by_prefix.digest == artifact.digest
    assert by_name.hook == HookPoint("resid_post", 1)
    assert torch.equal(by_name.vector_D, by_prefix.vector_D)


def test_the_step_takes_the_middle_layer_where_none_is_named_and_finds_what_it_made(
    store: Store, source: SubjectSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTUDIO_TRACKING", "off")
    path = write_lines(tmp_path / "e.jsonl", labelled(8))
    given = {"examples": path, "model": source.path, "store": store.url, "device": "cpu"}
    first, again = (steps.run_step("direction", **given, hook=hook) for hook in (None, "resid_post"))
    assert (first.found, again.found) == (False, True)
    assert first.artifact.manifest.config["hook"] == "resid_post.1"
    assert first.metrics()["auroc"] == first.artifact.manifest.summary["auroc"]
    assert first.artifact.manifest.inputs["examples"].uri == "file:e.jsonl"
    with pytest.raises(InputError, match="There is no layer 7"):
        steps.run_step("direction", **given, hook="resid_post.7")


def test_the_command_makes_a_direction_of_two_files(
    store: Store, source: SubjectSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTUDIO_TRACKING", "off")
    positive = write_lines(tmp_path / "p.jsonl", made_up(SEAS, 9, 1))
    negative = write_lines(tmp_path / "n.jsonl", made_up(LANDS, 8, 2))
    command = ["direction", "--positive", positive, "--negative", negative, "--model", source.path]
    done = CliRunner().invoke(app, [*command, "--store", store.url, "--device", "cpu", "--json"])
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    assert (shown["positive"], shown["negative"]) == (9, 8)
    assert open_direction(open_artifact(store, shown["artifact_uri"], "direction")).record.width == WIDTH
