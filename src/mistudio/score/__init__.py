"""The score step: how well each description predicts its feature on documents that nobody saw while writing it."""

from mistudio.score.config import ScoreConfig
from mistudio.score.step import check_scorers, score
from mistudio.score.tables import SCORES_NAME, SUMMARY_NAME, read_scores

__all__ = ["SCORES_NAME", "SUMMARY_NAME", "ScoreConfig", "check_scorers", "read_scores", "score"]
