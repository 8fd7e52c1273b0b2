"""What is asked of a Kubernetes cluster beside pipelines: predictors by KServe, training on several hosts.

The only package that uses the ``kubernetes`` client, which is an extra and imported when a cluster is first asked.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mistudio.cluster.api import Cluster, Patience
    from mistudio.cluster.config import DeployConfig
    from mistudio.cluster.resources import Resource
else:
    from mistudio.lazy import from_modules

    __getattr__ = from_modules(__name__, "api", "config", "resources")

__all__ = ["Cluster", "DeployConfig", "Patience", "Resource"]
