"""Runs of pipelines and steps: started as processes of their own, followed by their events, listed and cancelled."""

from mistudio.runs.local import LocalRunner
from mistudio.runs.run import Run, RunArtifact, Runner, Settings, State, Target

__all__ = ["LocalRunner", "Run", "RunArtifact", "Runner", "Settings", "State", "Target"]
