"""The step train on several hosts: found, or made by a TrainJob; what it publishes is the same."""

from collections.abc import Sequence

from mistudio.artifacts import Artifact, Produced, Recipe, Store, open_artifact
from mistudio.cluster.api import Cluster, Patience
from mistudio.cluster.following import Following
from mistudio.cluster.hosts_config import HostsConfig
from mistudio.cluster.trainjob import train_job
from mistudio.errors import ClusterError, ConfigError, NotFound

_CHARACTERS = 16


def train_on_hosts(
    store: Store,
    recipe: Recipe,
    inputs: Sequence[Artifact],
    arguments: Sequence[str],
    hosts: HostsConfig,
    patience: Patience | None = None,
) -> Produced:
    """The artifact of a recipe, made on several hosts unless it is there.

    Args:
        store: that all hosts reach.
        recipe: of what is made; it says nothing of hosts.
        inputs: noted with the TrainJob.
        arguments: of ``mistudio`` that make it.
        hosts: how many, and what their pods are given.
        patience: for how long the API is waited for.

    Raises:
        ConfigError: the store cannot be reached from other hosts, or no cluster is known here.
        HostsFailed: a host failed.
        ClusterError: the cluster refuses, or cannot be reached.
    """
    if found := _published(store, recipe):
        return Produced(found, found=True)
    _check_is_shared(store, hosts)
    with Cluster.connect(hosts.context or "", patience) as cluster:
        name = f"mistudio-{recipe.kind}-{recipe.key[:_CHARACTERS]}"
        notes = {"makes": recipe.prefix} | {f"{each.manifest.short_kind}-digest": each.digest for each in inputs}
        job = train_job(name, hosts.namespace or cluster.namespace, arguments, hosts, notes)
        Following(cluster, job, hosts.check_every_s).run()
    made = _published(store, recipe)
    if made is None:
        message = f"TrainJob {name} ended well, but {recipe.prefix} is not in {store.url}: do its pods use this store?"
        raise ClusterError(message)
    return Produced(made, found=False)


def _published(store: Store, recipe: Recipe) -> Artifact | None:
    try:
        return open_artifact(store, recipe.prefix, recipe.kind)
    except NotFound:
        return None


def _check_is_shared(store: Store, hosts: HostsConfig) -> None:
    """Refuse a folder of this machine, which other hosts do not see unless a volume brings it to them."""
    url = str(store.url)
    if "://" not in url and not hosts.pod.mounts(url.removeprefix("file:")):
        message = (
            f"The store {url} is a folder of this machine, which other hosts do not reach: use one on S3 "
            "(s3://BUCKET/PREFIX), or mount a volume that holds it in all pods."
        )
        raise ConfigError(message)
