"""A server that answers as the API of Kubeflow's pipelines (v2beta1) does, for the runs, pipelines and experiments.

It is strict: what a request holds is checked against the models of ``kfp_server_api``, and what it answers is made of
them. It keeps what it was told, and runs nothing by itself: a test moves a run on, or has its pipeline executed.
"""

from tests.support.kfp_api.server import KfpServer

__all__ = ["KfpServer"]
