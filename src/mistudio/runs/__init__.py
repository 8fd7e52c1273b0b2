"""Runs of pipelines and steps: started as processes of their own, followed by their events, listed and cancelled."""

from mistudio.runs.local import LocalRunner
from mistudio.runs.run import Made, Run, Runner, Settings, State, Target

__all__ = ["LocalRunner", "Made", "Run", "Runner", "Settings", "State", "Target"]
