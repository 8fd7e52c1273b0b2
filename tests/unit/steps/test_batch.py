"""Training as a step of plain values: what of it a real MLflow has."""

import pytest
import torch

from mistudio import steps
from mistudio.artifacts import open_store
from mistudio.sae import Losses, Stage
from mistudio.sae.topk import TopKAutoencoder
from tests.unit.train.synthetic import plant, publish_activations


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_mlflow_has_the_step_at_which_memory_ran_out(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    store = open_store(str(tmp_path_factory.mktemp("memory")))
    losses = TopKAutoencoder.losses

    def in_small_memory(self: TopKAutoencoder, x_TD: torch.Tensor, y_TE: torch.Tensor, stage: Stage) -> Losses:
        if stage.progress >= 0.5 and len(x_TD) > 60:
            raise torch.OutOfMemoryError
        return losses(self, x_TD, y_TE, stage)

    monkeypatch.setattr(TopKAutoencoder, "losses", in_small_memory)
    activations = publish_activations(store, plant(1_000, width=12).acts_ND).uri
    steps.train(activations, width=64, k=3, tokens=2_000, batch_size=200, device="cpu", store=store.url)
    client = tracking.MlflowClient(f"sqlite:///{store.url}/.mistudio/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("mistudio").experiment_id])
    points = client.get_metric_history(run.info.run_id, "micro_batches")
    assert [(point.step, point.value) for point in points] == [(step, 1 if step <= 5 else 4) for step in range(1, 11)]
    assert run.data.params["micro_batches"] == "1"  # what was asked for
