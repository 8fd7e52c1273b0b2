"""What people look at: the HTML dashboard of an SAE's features, its Markdown summary, and plots."""

from mistudio.report.config import ReportConfig
from mistudio.report.step import report

__all__ = ["ReportConfig", "report"]
