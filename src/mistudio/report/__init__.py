"""What people look at: the HTML dashboard of an SAE's features, its Markdown summary, and plots."""

from mistudio.report.step import ReportConfig, report

__all__ = ["ReportConfig", "report"]
