"""What recipes hold of explainers, and explainers of other packages with settings of their own."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mistudio.artifacts import Artifact
from mistudio.errors import ConfigError
from mistudio.explain import ExplainConfig, JudgeSource, explain, read_explanations
from mistudio.explain import registry as registry_module
from mistudio.explain.config import EXPLAINERS, LlmExplainerConfig
from mistudio.explain.records import Evidence, Explanation
from tests.support.oracle import Direct
from tests.support.tiny_run import CPU, TinyRun

PROGRAM = ExplainConfig(max_tokens=100_000, block_features=64)
OTHER_LLM = LlmExplainerConfig(num_active=3)


class ShoutConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")

    words: int = Field(default=2, ge=1)
    mark: str = "!"


class Shout:
    """An explainer of another package with settings of its own, and one of the step's."""

    name = "shout"
    needs_judge = False
    version = 3
    takes = ("contexts",)
    config_class = ShoutConfig

    def __init__(self, judge: object, seed: int, config: ShoutConfig, contexts: int) -> None:
        assert judge is None
        self.config, self.contexts, self.seed = config, contexts, seed

    def explain(self, features: Iterable[Evidence]) -> Iterator[Explanation]:
        for evidence in features:
            text = f"{self.contexts}{self.config.mark * self.config.words}"
            yield Explanation(feature=evidence.feature, explainer=self.name, text=text, seed=self.seed)


class ShoutEntry:
    name, value = "shout", "somewhere:Shout"

    def load(self) -> type[Shout]:
        return Shout


@pytest.fixture
def shout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "entry_points", lambda group: [ShoutEntry()])


def asking(*explainers: str, **settings: object) -> ExplainConfig:
    return ExplainConfig.model_validate({"explainers": explainers, "block_features": 64, **settings})


def recipe(config: ExplainConfig) -> dict[str, object]:
    return EXPLAINERS.recipe(config.explainers, config, ["explainers"])


def test_programs_alone_are_found_whatever_the_settings_of_a_language_model(llama: TinyRun, features: Artifact) -> None:
    made = explain(llama.store, features, llama.source, CPU, PROGRAM).artifact
    others = PROGRAM.model_copy(update={"llm": OTHER_LLM, "contexts": 7})
    judge = JudgeSource({"model": "unused"}, Direct)
    assert explain(llama.store, features, llama.source, CPU, others, judge=judge).found
    assert sorted(made.manifest.config) == [
        "block_features",
        "explainers",
        "judge",
        "max_tokens",
        "plugins",
        "program",
        "versions",
    ]
    assert made.manifest.config["program"]["search"]["max_branches"] == 3
    assert made.manifest.config["versions"] == {"program": 1}


def test_what_a_language_model_is_shown_is_in_the_recipe_whole() -> None:
    plain = recipe(asking("contrastive"))
    assert plain["llm"] == LlmExplainerConfig().model_dump(mode="json")
    assert plain != recipe(asking("contrastive", llm=OTHER_LLM))
    assert plain == recipe(asking("contrastive", program={"threshold": 0.5}, max_tokens=2000))


@pytest.mark.parametrize("name", EXPLAINERS.built_in)
def test_another_version_of_an_explainer_is_another_recipe(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipe(asking(name))
    method = EXPLAINERS.built_in[name]
    monkeypatch.setitem(EXPLAINERS.built_in, name, replace(method, version=method.version + 1))
    assert recipe(asking(name)) != before


@pytest.mark.usefixtures("shout")
def test_an_explainer_of_another_package_has_settings_of_its_own(llama: TinyRun, features: Artifact) -> None:
    config = asking("shout", plugins={"shout": {"words": 3}}, contexts=9)
    made = explain(llama.store, features, llama.source, CPU, config).artifact
    assert {row.text for row in read_explanations(made)} == {"9!!!"}
    assert made.manifest.config["plugins"] == {"shout": {"words": 3, "mark": "!"}}
    assert made.manifest.config["versions"] == {"shout": 3}
    assert made.manifest.config["judge"] is None
    whole = config.model_copy(update={"plugins": {"shout": {"mark": "!", "words": 3}}})
    assert explain(llama.store, features, llama.source, CPU, whole).found
    other = config.model_copy(update={"plugins": {}})
    assert recipe(other) != recipe(config)


@pytest.mark.usefixtures("shout")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"explainers": ("shout",), "plugins": {"shout": {"words": 0}}}, r"shout refuses .* words: Input should be"),
        ({"explainers": ("shout",), "plugins": {"shout": {"word": 1}}}, "shout refuses .* word: Extra inputs"),
        ({"plugins": {"shout": {"words": 1}}}, "plugins has settings of shout: ask for it too"),
        ({"plugins": {"program": {"threshold": 0.1}}}, "program has no settings of its own under plugins"),
    ],
)
def test_settings_of_a_plugin_that_cannot_be_used_are_refused(
    llama: TinyRun, features: Artifact, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        explain(llama.store, features, llama.source, CPU, ExplainConfig.model_validate(settings))


@pytest.mark.usefixtures("shout")
def test_a_plugin_that_takes_what_the_step_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shout, "takes", ("resamples",))
    with pytest.raises(ConfigError, match="shout takes resamples, which ExplainConfig lacks"):
        EXPLAINERS.check(["shout"], ExplainConfig(), has_judge=False)


def test_no_name_is_asked_twice() -> None:
    with pytest.raises(ValidationError, match="explainers names one twice: .program, program"):
        asking("program", "program")
    with pytest.raises(ValidationError, match="at least 1 item"):
        asking()
