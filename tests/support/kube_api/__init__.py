"""A Kubernetes API for tests: strict as the real one is, with the parts of KServe and of Kubeflow Trainer played.

Objects are held against the schemas of the CRDs (422, or 400 for unknown fields), writes against the version that they
were made from (409), every request against the rules of real Role objects (401, 403), which records what each account
has done (``rights.used_rules``, ``rights.write_record``). A test can let requests fail (429, 503 with Retry-After, no
answer, a reset connection, also after the work was done).
"""

from tests.support.kube_api.rights import Right, role
from tests.support.kube_api.server import KubeApi

__all__ = ["KubeApi", "Right", "role"]
