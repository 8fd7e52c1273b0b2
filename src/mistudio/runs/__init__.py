"""Runs of pipelines and steps, as processes of this machine or on Kubeflow: started, followed, listed, cancelled."""

from mistudio.runs.kubeflow import KubeflowRunner
from mistudio.runs.local import LocalRunner
from mistudio.runs.run import Run, RunArtifact, Runner, Settings, State, Target
from mistudio.runs.submitting import Submission

__all__ = ["KubeflowRunner", "LocalRunner", "Run", "RunArtifact", "Runner", "Settings", "State", "Submission", "Target"]
