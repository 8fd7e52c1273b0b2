"""The tables of an evaluation: every column with its type and meaning."""

from typing import NamedTuple

import pyarrow as pa

from mistudio.features.schema import Column, Table

ABOUT_NAME, PAGE_NAME = "steering.json", "steering.md"
PRESETS = "presets"  # folder
_ID, _COUNT, _REAL, _TEXT = pa.int32(), pa.int64(), pa.float64(), pa.string()

# What a text is written under.
STEERED, ABLATED = "feature", "ablated"
DIFFERENCE, RANDOM, OTHER = "difference_of_means", "random_direction", "other_feature"
EQUAL = "feature_at_push"  # the feature, where controls are compared at a push that was set
PROMPT_LABEL, PROMPT_EXAMPLES = "prompt_label", "prompt_examples"

EFFECTS = Table(
    "effects.parquet",
    "one a candidate",
    (
        Column("feature", _ID, "number of the feature"),
        Column("output_score", _REAL, "(1 - rank / vocabulary) × probability; null where directions have no logits"),
        Column("rank", _COUNT, "of the likeliest of its own tokens when it is amplified, from 0"),
        Column("probability", _REAL, "largest of its own tokens then"),
        Column("delta_confidence", _REAL, "change of the next token's confidence then, in nats"),
        Column("push_gain", _REAL, "rise of its own tokens' mean probability at an equal push; null if not asked for"),
        Column("chosen", pa.bool_(), "whether it was tried at all strengths"),
    ),
)
TRIED = Table(
    "tried.parquet",
    "one a feature, method and strength",
    (
        Column("feature", _ID, "number of the feature"),
        Column("method", _TEXT, "`feature`, `ablated`, or a control"),
        Column("strength", _REAL, "of `feature` in parts of its largest activation; of vectors times their length"),
        Column("texts", _COUNT, "texts that were written, each behind a document's beginning"),
        Column("kl", _REAL, "from the model's predictions to the steered ones on held-out text, nats a token"),
        Column("dose", _REAL, "length of what is added over the activation's, mean over tokens; null of prompts"),
        Column("active", _REAL, "share of texts on which, read alone and unsteered, the feature is active"),
        Column("active_low", _REAL, "end of its 95% interval"),
        Column("active_high", _REAL, "likewise"),
        Column("activation", _REAL, "largest activation on a text over the feature's largest, mean over texts"),
        Column("described", _REAL, "share of texts that the feature's program or token set holds of; null without one"),
        Column("described_low", _REAL, "end of its 95% interval"),
        Column("described_high", _REAL, "likewise"),
        Column(
            "labelled", _REAL, "share of texts that the probe of the labels takes for positive; null without labels"
        ),
        Column("labelled_low", _REAL, "end of its 95% interval"),
        Column("labelled_high", _REAL, "likewise"),
        Column("perplexity", _REAL, "of the texts, under the model as it is"),
        Column("perplexity_ratio", _REAL, "that over the perplexity of unsteered texts"),
        Column("perplexity_ratio_low", _REAL, "end of its 95% interval, by the spread of texts"),
        Column("perplexity_ratio_high", _REAL, "likewise"),
        Column("natural_ratio", _REAL, "that over the perplexity of held-out text on which the feature is active"),
        Column("repetition", _REAL, "share of a text's token triples that were in it before"),
        Column("in_range", pa.bool_(), "whether the strength is for use; null of controls"),
    ),
)
TEXTS = Table(
    "texts.parquet",
    "one a text that is shown, by feature, method and strength",
    (
        Column("feature", _ID, "number of the feature"),
        Column("method", _TEXT, "as in the table of what was tried"),
        Column("strength", _REAL, "likewise"),
        Column("document", _ID, "number of the held-out document"),
        Column("prompt", _TEXT, "its beginning"),
        Column("text", _TEXT, "what was written behind it"),
        Column("activation", _REAL, "largest activation of the feature on the text alone"),
    ),
)


class Tried(NamedTuple):
    """A row of ``TRIED``; None is null, and NaN what is not defined."""

    feature: int
    method: str
    strength: float | None
    texts: int
    kl: float | None
    dose: float | None
    active: float
    active_low: float
    active_high: float
    activation: float
    described: float | None
    described_low: float | None
    described_high: float | None
    labelled: float | None
    labelled_low: float | None
    labelled_high: float | None
    perplexity: float
    perplexity_ratio: float
    perplexity_ratio_low: float
    perplexity_ratio_high: float
    natural_ratio: float
    repetition: float
    in_range: bool | None

    @property
    def rate(self) -> float:
        """How often the concept is there: by the labels where there are some, else by the feature's own activation."""
        return self.active if self.labelled is None else self.labelled


class Text(NamedTuple):
    """A row of ``TEXTS``."""

    feature: int
    method: str
    strength: float | None
    document: int
    prompt: str
    text: str
    activation: float
