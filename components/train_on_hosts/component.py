"""The train_on_hosts step as a KFP component. Written by ``make components`` from its declaration: do not edit."""

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(
    base_image=BATCH_IMAGE,
    install_kfp_package=False,
    task_config_passthroughs=[
        dsl.TaskConfigField.RESOURCES,
        dsl.TaskConfigField.KUBERNETES_TOLERATIONS,
        dsl.TaskConfigField.KUBERNETES_NODE_SELECTOR,
        dsl.TaskConfigField.KUBERNETES_AFFINITY,
        dsl.TaskConfigPassthrough(field=dsl.TaskConfigField.ENV, apply_to_task=True),
        dsl.TaskConfigPassthrough(field=dsl.TaskConfigField.KUBERNETES_VOLUMES, apply_to_task=True),
    ],
)
def train_on_hosts(
    activations: dsl.Input[dsl.Dataset],
    sae: dsl.Output[dsl.Model],
    summary: dsl.Output[dsl.Markdown],
    task_config: dsl.TaskConfig,
    num_nodes: int = 2,
    processes_per_node: int = -1,
    model: str = "",
    hook: str = "",
    target_hook: str = "",
    architecture: str = "topk",
    width: int = -1,
    allow_wide: bool = False,
    skip: str = "none",
    k: int = -1,
    target_l0: float = -1.0,
    l1_coefficient: float = -1.0,
    tokens: int = 3000000,
    learning_rate: float = -1.0,
    train_settings: str = "",
    model_settings: str = "",
    seed: int = 0,
    store: str = "",
):
    """Train on several hosts of a cluster. A TrainJob makes the autoencoder that train would make.

    Args:
        activations: Captured activations (activations/...).
        sae: Trained autoencoder.
        summary: A page on it, for the dashboard to show.
        task_config: What its pod is given, for those that it starts; filled in by KFP.
        num_nodes: Hosts, each with a pod of its own.
        processes_per_node: Processes a host; -1: one a GPU of its pod, or one.
        model: Language model: a folder, a GGUF file, an id on the hub (NAME@REVISION), demo, smollm2, or
            subject/... in the store; empty: where the capture says.
        hook: Hook point to train on, for example resid_post.3; empty: the only one captured.
        target_hook: Hook point that a transcoder predicts, captured with the other; empty: autoencoder.
        architecture: Kind of autoencoder (topk, batchtopk, matryoshka, standard, gated, jumprelu).
        width: Number of latents (features) of the dictionary; -1: eight times the activations' width, 1,024 to
            32,768.
        allow_wide: Accept a width above 32,768.
        skip: What passes beside the latents: nothing, a share of the input (fixed or learned), or a linear map of
            the input (transcoders only) (none, scale, learned_scale, linear).
        k: Active latents a token (topk, batchtopk, matryoshka); -1: a quarter of the activations' width, 8 to 64.
        target_l0: Active latents a token that the penalty's weight is steered to (standard, gated, jumprelu); -1:
            fixed.
        l1_coefficient: Weight of the L1 norm, at first if target_l0 is set (standard, gated); -1: 0.02.
        tokens: Activations (tokens) to train on; repeats the data if need be.
        learning_rate: Peak learning rate of Adam; -1: 0.125 / sqrt(width).
        train_settings: Other settings as JSON; mistudio train-on-hosts --parameters lists them.
        model_settings: Other settings of loading it as JSON, such as {"device_map": "auto", "max_memory_gb": 20}.
        seed: Seed of everything random.
        store: Store: a folder, or s3://bucket/prefix; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    steps.own_process("train_on_hosts")
    done = steps.run_step(
        "train_on_hosts",
        activations=steps.artifact_uri(activations.path),
        pod=steps.pod_json(task_config),
        num_nodes=num_nodes,
        processes_per_node=None if processes_per_node == -1 else processes_per_node,
        model=model or None,
        hook=hook or None,
        target_hook=target_hook or None,
        architecture=architecture,
        width=None if width == -1 else width,
        allow_wide=allow_wide,
        skip=skip,
        k=None if k == -1 else k,
        target_l0=None if target_l0 == -1 else target_l0,
        l1_coefficient=None if l1_coefficient == -1 else l1_coefficient,
        tokens=tokens,
        learning_rate=None if learning_rate == -1 else learning_rate,
        train_settings=train_settings or None,
        model_settings=model_settings or None,
        seed=seed,
        store=store or None,
    )
    done.write_to(sae)
    done.write_summary_to(summary)
