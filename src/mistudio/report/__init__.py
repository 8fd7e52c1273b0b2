"""What people look at: the HTML dashboard of an SAE's features, its Markdown summary, and plots."""

from typing import TYPE_CHECKING

from mistudio.report.config import ReportConfig

if TYPE_CHECKING:
    from mistudio.report.step import report
else:
    from mistudio.lazy import from_modules

    __getattr__ = from_modules(__name__, "step")

__all__ = ["ReportConfig", "report"]
