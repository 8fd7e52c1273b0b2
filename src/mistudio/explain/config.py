"""Every setting of ``explain``, and the table of explainers.

An explainer is added by a module of its own and a row of ``EXPLAINERS``; settings of its own are a class here and a
field of :class:`ExplainConfig`, which the row names.
"""

from typing import TYPE_CHECKING

from pydantic import Field

from mistudio.explain.registry import ONLY_TEXT, Method, MethodsConfig, Names, Only, Registry
from mistudio.settings import DASHBOARD, Settings, option_name

if TYPE_CHECKING:
    from mistudio.explain.records import Explainer

PROGRAM = "program"
TOKEN_SET = "token-set"  # noqa: S105 -- a name; published beside programs
PERSON = "person"  # who gives the labels that come from a file


class SearchConfig(Settings):
    """How far to search for a program."""

    max_branches: int = Field(default=3, ge=1, le=8, description="alternatives of a program")
    max_conditions: int = Field(default=3, ge=1, le=6, description="conditions of a branch")
    min_gain: float = Field(
        default=0.01, ge=0, le=1, description="F1 that a condition has to add, on training documents kept for choosing"
    )
    good_enough: float = Field(default=0.95, gt=0, le=1, description="F1 from which a set of tokens is left as it is")
    max_tokens: int = Field(default=24_000, ge=1000, description="tokens looked at for one feature; a sample of more")
    min_fires: int = Field(default=20, ge=1, description="firings below which only a set of tokens is learnt")


class ProgramConfig(Settings):
    """What counts as firing, and how to search for programs."""

    threshold: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="a feature fires above this fraction of its maximum on training documents",
        json_schema_extra=DASHBOARD,
    )
    choosing_fraction: float = Field(
        default=0.25, gt=0, lt=1, description="share of the documents kept for choosing between programs"
    )
    search: SearchConfig = Field(default=SearchConfig(), description="how far to search")


class LlmExplainerConfig(Settings):
    """What a language model is shown of each feature."""

    num_active: int = Field(default=20, ge=1, description="examples that a feature fires on, at most")
    num_inactive: int = Field(
        default=10, ge=0, description="examples that it does not fire on, at most, if any are shown"
    )
    num_promoted: int = Field(default=10, ge=0, description="output tokens that it makes likelier, at most")
    features_per_prompt: int = Field(default=1, ge=1, description="features that are asked about together")
    answer_tokens: int = Field(default=256, ge=16, description="longest answer a feature, in tokens")


_LLM = "mistudio.explain.llm"
EXPLAINERS: "Registry[Explainer]" = Registry(
    "explainer",
    "mistudio.explainers",
    {
        # Made by the step, which reads the tokens that programs are searched on.
        PROGRAM: Method(
            "mistudio.explain.program:ProgramExplainer", version=1, takes=("max_tokens", "program"), needs_judge=False
        ),
        "max-activating": Method(f"{_LLM}:MaxActivatingExplainer", version=1, takes=("llm",)),
        "contrastive": Method(f"{_LLM}:ContrastiveExplainer", version=1, takes=("llm",)),
        "token-activation-pairs": Method(f"{_LLM}:TokenActivationPairsExplainer", version=1, takes=("llm",)),
    },
)


class ExplainConfig(MethodsConfig):
    """Who explains, and from how much."""

    explainers: Names = Field(
        default=(PROGRAM,),
        description=f"who explains: {', '.join(EXPLAINERS.built_in)}; several with commas, "
        "of which the first that has a label gives it",
        json_schema_extra=option_name("explainer"),
    )
    only: Only = Field(default=None, description=ONLY_TEXT, json_schema_extra=DASHBOARD)
    max_tokens: int = Field(
        default=400_000,
        ge=1000,
        description="training tokens that programs are searched on, of whole documents",
        json_schema_extra=DASHBOARD,
    )
    contexts: int = Field(
        default=40,
        ge=1,
        description="contexts of each kind that a language model may be shown of a feature",
        json_schema_extra=DASHBOARD,
    )
    block_features: int = Field(default=128, ge=1, description="features explained between two checkpoints")
    program: ProgramConfig = Field(default=ProgramConfig(), description="programs: what fires, and the search")
    llm: LlmExplainerConfig = Field(
        default=LlmExplainerConfig(), description="what explainers show a language model of each feature"
    )
