"""Every setting of ``score``, and the table of scorers.

A scorer is added by a module of its own and a row of ``SCORERS``; settings of its own are a class here and a field of
:class:`ScoreConfig`, which the row names.
"""

from typing import TYPE_CHECKING

from pydantic import Field

from mistudio.explain.registry import ONLY_TEXT, Method, MethodsConfig, Names, Only, Registry
from mistudio.settings import DASHBOARD, Settings, option_name

if TYPE_CHECKING:
    from mistudio.score.records import Scorer

PROGRAM = "program"


class ExamplesConfig(Settings):
    """How many examples of a feature to draw, and how long they are."""

    num_active: int = Field(default=40, ge=1, description="examples that the feature fires on")
    num_random: int = Field(default=20, ge=0, description="examples that it does not fire on, drawn at random")
    num_hard_negatives: int = Field(
        default=20, ge=0, description="examples that it does not fire on, and its neighbours do"
    )
    strata: int = Field(default=5, ge=1, description="quantiles of the activation that examples are drawn from")
    neighbours: int = Field(default=5, ge=1, description="features with the most similar direction that count")
    before: int = Field(default=24, ge=0, le=512, description="tokens shown before the peak")
    after: int = Field(default=8, ge=0, le=512, description="tokens shown after it")


class JudgeConfig(Settings):
    """How many examples a language model judges of each feature, and how."""

    num_active: int = Field(default=20, ge=1, description="examples that a feature fires on, at most")
    num_inactive: int = Field(default=20, ge=1, description="examples that it does not fire on, at most")
    per_prompt: int = Field(default=5, ge=1, description="examples that are judged in one answer")
    alternatives: int = Field(
        default=5, ge=0, le=20, description="choices a token whose log-probabilities are asked for; 0 asks for none"
    )


class SimulationConfig(Settings):
    """How many examples have their activations predicted."""

    num_examples: int = Field(
        default=10, ge=2, description="examples whose activations are predicted token by token; half of them active"
    )


class IntruderConfig(Settings):
    """Among how many texts an intruder hides."""

    choices: int = Field(default=5, ge=2, description="texts among which an intruder hides, itself included")


class SteeringConfig(Settings):
    """How far a model is pushed, and how much it writes."""

    num_prompts: int = Field(default=8, ge=1, description="prompts that are continued for each feature")
    prompt_tokens: int = Field(default=24, ge=2, description="longest prompt, in tokens")
    new_tokens: int = Field(default=16, ge=1, description="length of a continuation, in tokens")
    target_kl: float = Field(default=1.0, gt=0, description="change of the predictions, in nats a token of the prompts")
    search_steps: int = Field(default=12, ge=1, description="bisections for the length of a push, at most")


SCORERS: "Registry[Scorer]" = Registry(
    "scorer",
    "mistudio.scorers",
    {
        # Made by the step, which reads the tokens that programs are run on.
        PROGRAM: Method("mistudio.score.program:ProgramScorer", version=1, takes=("resamples",), needs_judge=False),
        "detection": Method("mistudio.score.detection:DetectionScorer", version=1, takes=("judged", "resamples")),
        "fuzzing": Method("mistudio.score.fuzzing:FuzzingScorer", version=1, takes=("judged", "resamples")),
        "simulation": Method(
            "mistudio.score.simulation:SimulationScorer", version=1, takes=("judged", "simulation", "resamples")
        ),
        "surprisal": Method("mistudio.score.surprisal:SurprisalScorer", version=1, takes=("judged", "resamples")),
        "embedding": Method("mistudio.score.embedding:EmbeddingScorer", version=1, takes=("judged", "resamples")),
        "intruder": Method(
            "mistudio.score.intruder:IntruderScorer", version=1, takes=("judged", "intruder", "resamples")
        ),
        "intervention": Method(
            "mistudio.score.intervention:open_intervention",
            version=2,
            takes=("steering", "resamples"),
            needs_subject=True,
        ),
    },
)


class ScoreConfig(MethodsConfig):
    """Who scores, and on how much."""

    scorers: Names = Field(
        default=(PROGRAM,),
        description=f"who scores: {', '.join(SCORERS.built_in)}; several with commas",
        json_schema_extra=option_name("scorer"),
    )
    only: Only = Field(default=None, description=ONLY_TEXT, json_schema_extra=DASHBOARD)
    max_tokens: int = Field(
        default=200_000,
        ge=1000,
        description="held-out tokens that explanations are tried on, of whole documents",
        json_schema_extra=DASHBOARD,
    )
    resamples: int = Field(
        default=500, ge=20, le=100_000, description="bootstrap draws of the documents", json_schema_extra=DASHBOARD
    )
    block_features: int = Field(default=128, ge=1, description="explanations scored between two checkpoints")
    examples: ExamplesConfig = Field(
        default=ExamplesConfig(), description="held-out examples of a feature that all scorers but program read"
    )
    judged: JudgeConfig = Field(default=JudgeConfig(), description="what a language model judges of each feature")
    simulation: SimulationConfig = Field(default=SimulationConfig(), description="simulation alone")
    intruder: IntruderConfig = Field(default=IntruderConfig(), description="intruder alone")
    steering: SteeringConfig = Field(default=SteeringConfig(), description="how intervention steers the model")
