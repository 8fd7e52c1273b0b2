"""A language model that answers by a script, as steps are given one."""

import json
import re

from mistudio.artifacts import Store
from mistudio.explain import JudgeSource
from mistudio.steps import STEPS
from mistudio.steps.context import Context
from mistudio.tracking import Run
from tests.support.scripted_server import Answer
from tests.support.tiny_run import CPU


def judge_source(
    store: Store, wanted_by: str, url: str = "", model: str = "", settings: str = ""
) -> JudgeSource | None:
    """The judge that these options name."""
    given = {"judge_url": url, "judge_model": model, "judge_settings": settings}
    context = Context(STEPS["explain"], store.url, Run("explain", store.url), given, {}, {})
    return context.judge(CPU, wanted_by)


class Clerk:
    """Explains everything alike, and finds that every text fits."""

    def chat(self, system: str, prompt: str) -> Answer:
        if "JSON list" in system:
            return Answer(json.dumps([1] * len(re.findall(r"^Text \d+:", prompt, flags=re.MULTILINE))))
        return Answer(json.dumps({"feature": 1, "explanation": "anything at all", "label": "anything"}))

    def losses(self, text: str) -> list[tuple[str, float]]:
        raise NotImplementedError

    def embed(self, text: str) -> list[float]:
        raise NotImplementedError
