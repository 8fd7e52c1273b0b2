"""The calls that rights are held against are those that were recorded where the code runs."""

from checks.rights import recorded
from tests.support.kube_accounts import ACCOUNT, MAY_DEPLOY, MAY_TRAIN


def test_the_list_of_calls_is_what_deploying_and_training_on_hosts_use() -> None:
    """`tests/integration/test_deploy.py` and `test_hosts.py` show that these two roles are used to the last right."""
    account = ACCOUNT.removeprefix("system:serviceaccount:").replace(":", "/")
    used = {
        f"{role['metadata']['namespace']} {group or 'core'} {resource} {verb}"
        for role in (MAY_DEPLOY, MAY_TRAIN)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert recorded() == {account: used}
