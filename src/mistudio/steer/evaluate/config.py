"""Every setting of ``steer_evaluate``."""

from typing import Literal

from pydantic import Field, field_validator

from mistudio.explain.registry import ONLY_TEXT, Only
from mistudio.settings import COMMAND, DASHBOARD, Settings

_ONLY = ONLY_TEXT.replace("None: all", "None: the num_candidates best, by scores or else by coherence")
EffectName = Literal["delta_confidence", "output_score", "push_gain"]


class TextsConfig(Settings):
    """What is continued, and how."""

    num_prompts: int = Field(
        default=24, ge=2, description="held-out documents whose beginnings are continued", json_schema_extra=DASHBOARD
    )
    prompt_tokens: int = Field(default=8, ge=1, description="tokens of a beginning", json_schema_extra=COMMAND)
    new_tokens: int = Field(
        default=24, ge=4, description="tokens that are written behind it", json_schema_extra=DASHBOARD
    )
    num_windows: int = Field(
        default=256, ge=8, description="stretches of held-out text of that length, to compare with what is written"
    )
    temperature: float = Field(default=1.0, ge=0, le=10, description="of what is written; 0: always the likeliest")
    num_rows: int = Field(default=32, ge=1, le=4096, description="texts that are written at once")


class EffectsConfig(Settings):
    """How features are told apart by what they do to the next token."""

    neutral: str = Field(default="From my experience,", min_length=1, description="text behind which they are tried")
    amplification: float = Field(
        default=10.0, gt=0, description="what is added to a feature there, in parts of the strongest activation"
    )
    own_tokens: int = Field(default=20, ge=1, description="tokens that count as its own: what the logit lens gives")
    push_kl: float = Field(
        default=0.2, gt=0, description="push at which they are held against each other by push_gain, nats a token"
    )
    likeliest: int = Field(default=20, ge=2, description="tokens that the confidence of a prediction is taken over")


class SteerEvaluateConfig(Settings):
    """Which features are tried, how strongly, on what, and what counts as coherent."""

    only: Only = Field(default=None, description=_ONLY, json_schema_extra=DASHBOARD)
    num_candidates: int = Field(
        default=64, ge=1, description="features looked at where only names none, or that separate labelled examples"
    )
    num_features: int = Field(
        default=3,
        ge=1,
        le=1000,
        description="of them, those that are tried at all strengths",
        json_schema_extra=DASHBOARD,
    )
    choose_by: EffectName = Field(
        default="delta_confidence", description="effect by which they are chosen", json_schema_extra=DASHBOARD
    )
    factors: tuple[float, ...] = Field(
        default=(-2.0, -1.0, -0.5, 0.25, 0.5, 1.0, 2.0, 4.0),
        min_length=2,
        max_length=64,
        description="strengths, in parts of the feature's largest activation",
        json_schema_extra=COMMAND,
    )
    concept_share: float = Field(
        default=0.2, gt=0, lt=1, description="share of its largest activation above which a feature counts as there"
    )
    perplexity_ratio: float = Field(
        default=1.5,
        gt=1,
        description="a strength is for use while perplexity is below so many times that of unsteered text",
        json_schema_extra=DASHBOARD,
    )
    repetition_rise: float = Field(
        default=0.05, ge=0, lt=1, description="and while no larger share more of the word triples is repeated"
    )
    target_kl: float | None = Field(
        default=None,
        gt=0,
        description="push at which controls are compared, in nats a token; None: that of a feature's best strength",
    )
    num_examples: int = Field(default=2, ge=1, description="passages with the feature in the prompt of a control")
    shown: int = Field(default=4, ge=0, description="continuations of each kind that are kept to be read")
    texts: TextsConfig = Field(default=TextsConfig(), description="what is continued, and how")
    effects: EffectsConfig = Field(default=EffectsConfig(), description="by what features are chosen")

    @field_validator("factors")
    @classmethod
    def _factors_steer(cls, factors: tuple[float, ...]) -> tuple[float, ...]:
        if 0 in factors or len(set(factors)) < len(factors):
            message = f"factors {list(factors)} names a strength twice, or 0, which is there anyway: leave it out"
            raise ValueError(message)
        return tuple(sorted(factors))
