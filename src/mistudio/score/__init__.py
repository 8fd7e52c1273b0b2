"""The score step: how well each description predicts its feature on documents that nobody saw while writing it."""

from typing import TYPE_CHECKING

from mistudio.score.config import ScoreConfig

if TYPE_CHECKING:
    from mistudio.score.step import check_scorers, newest_scores, score
    from mistudio.score.tables import SCORES_NAME, SUMMARY_NAME, read_scores
else:
    from mistudio.lazy import from_modules

    __getattr__ = from_modules(__name__, "step", "tables")

__all__ = ["SCORES_NAME", "SUMMARY_NAME", "ScoreConfig", "check_scorers", "newest_scores", "read_scores", "score"]
