"""The batch steps as functions of plain values: what they make of their parameters before they run."""

from typing import NamedTuple

import pytest

from mistudio import steps
from mistudio.activations import capturing, opening
from mistudio.artifacts import open_store
from mistudio.errors import ConfigError, InputError
from mistudio.subject import Subject, SubjectConfig, SubjectSource, load_subject
from tests.support.tiny import LAYERS, tiny_corpus, tiny_llama


@pytest.fixture(autouse=True)
def _untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTUDIO_TRACKING", "off")


class Ingested(NamedTuple):
    """What a capture is asked with."""

    corpus: str
    model: str
    store: str

    def capture(self, hook: str, layer: int | None = None) -> steps.StepOutput:
        return steps.run_step(
            "capture", corpus=self.corpus, model=self.model, hook=hook, layer=layer, device="cpu", store=self.store
        )


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    folder = tmp_path_factory.mktemp("batch")
    store = open_store(str(folder / "store"))
    corpus = tiny_corpus(store, tiny_llama(folder / "model"), folder / "text")
    return Ingested(corpus.uri, str(folder / "model"), store.url)


@pytest.mark.parametrize(
    ("hook", "layer", "captured"),
    [
        ("resid_post", None, ["resid_post.1"]),
        ("resid_post, mlp_out", 2, ["resid_post.2", "mlp_out.2"]),
        ("resid_post.0,resid_post.1", None, ["resid_post.0", "resid_post.1"]),
        ("resid_mid.0,mlp_out", 2, ["resid_mid.0", "mlp_out.2"]),
    ],
)
def test_a_hook_point_names_its_layer_or_takes_that_of_the_parameter(
    ingested: Ingested, hook: str, layer: int | None, captured: list[str]
) -> None:
    made = ingested.capture(hook, layer).artifact
    assert made.manifest.config["hooks"] == captured


def test_a_transcoder_from_one_layer_to_the_next_is_captured_and_trained(ingested: Ingested) -> None:
    activations = ingested.capture("resid_post.0,resid_post.1").artifact.uri
    hooks = {"hook": "resid_post.0", "target_hook": "resid_post.1"}
    trained = steps.run_step(
        "train", activations=activations, **hooks, width=64, k=4, tokens=2000, device="cpu", store=ingested.store
    )
    assert {name: trained.artifact.manifest.config[name] for name in hooks} == hooks


@pytest.mark.parametrize(
    ("hook", "layer", "error", "message"),
    [
        ("resid_past", None, ConfigError, r"'resid_past' is not a hook point\. Write KIND\.LAYER"),
        ("resid_post.one", None, ConfigError, r"'resid_post\.one' is not a hook point"),
        ("mlp_out,", None, ConfigError, "'' is not a hook point"),
        ("mlp_out.0,resid_post.7", None, InputError, rf"no layer 7: the model has {LAYERS} layers"),
        ("resid_post.0,mlp_out.1", 2, ConfigError, r"layer 2 .* resid_post\.0, mlp_out\.1 .* leave layer out"),
        ("mlp_out.1,mlp_out", 1, ConfigError, r"names a hook point twice: mlp_out\.1, mlp_out\.1"),
    ],
)
def test_a_hook_point_that_cannot_be_captured_is_refused_by_name(
    ingested: Ingested, hook: str, layer: int | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ingested.capture(hook, layer)


def test_how_the_model_is_loaded_is_given_as_json(ingested: Ingested, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[SubjectConfig] = []

    def recorded(source: SubjectSource, config: SubjectConfig) -> Subject:
        loaded.append(config)
        return load_subject(source, config)

    monkeypatch.setattr(capturing, "load_subject", recorded)
    settings = '{"device_map": "auto", "max_memory_gb": 1.0}'
    made = steps.run_step(
        "capture",
        corpus=ingested.corpus,
        model=ingested.model,
        hook="mlp_out.0",
        model_settings=settings,
        store=ingested.store,
    )
    assert not made.found
    assert [(config.device_map, config.max_memory_gb) for config in loaded] == [("auto", 1.0)]
    with pytest.raises(ConfigError, match="model_settings names 'device_maps', which is no setting"):
        steps.run_step(
            "capture",
            corpus=ingested.corpus,
            model=ingested.model,
            model_settings='{"device_maps": 1}',
            store=ingested.store,
        )


def test_a_live_training_loads_the_model_as_it_is_told(ingested: Ingested, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[SubjectConfig] = []

    def recorded(source: SubjectSource, config: SubjectConfig) -> Subject:
        loaded.append(config)
        return load_subject(source, config)

    monkeypatch.setattr(opening, "load_subject", recorded)
    where = {"device": "cpu", "store": ingested.store}
    captured = steps.run_step(
        "capture", corpus=ingested.corpus, model=ingested.model, hook="resid_mid.0", stored="heldout", **where
    )
    settings = {"width": 64, "k": 4, "tokens": 2000, "model_settings": '{"trust_remote_code": true}'}
    steps.run_step("train", activations=captured.artifact.uri, model=ingested.model, **settings, **where)
    assert [config.trust_remote_code for config in loaded] == [True]
