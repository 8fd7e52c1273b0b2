"""Matching, AUROC and groups against cases whose answer is known."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from mistudio.verify.recovery import auroc, best_firing, best_group, correlations, forward_selection, match


def planted_latents(num_tokens: int = 4000, num_latents: int = 40, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return (draw.random((num_tokens, num_latents)) * (draw.random((num_tokens, num_latents)) < 0.1)).astype(np.float32)


def test_a_permuted_dictionary_is_recovered_in_full() -> None:
    values_TG = torch.from_numpy(planted_latents(num_latents=12))
    directions_GD = torch.nn.functional.normalize(torch.randn(12, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    found = match(values_TG, 3 * values_TG[:, order], directions_GD, 2 * directions_GD[order])
    assert found == pytest.approx((1.0, 1.0, found.f1, 1.0), abs=1e-5)
    assert found.f1 < 1  # weak activations count as silent


def test_features_that_no_latent_is_left_for_count_as_missed() -> None:
    values_TG = torch.from_numpy(planted_latents(num_latents=10))
    directions_GD = torch.eye(10)
    found = match(values_TG, values_TG[:, :5], directions_GD, directions_GD[:5])
    assert found.correlation == pytest.approx(0.5, abs=1e-5)
    assert found.f1_any == pytest.approx(0.5, abs=1e-5)


def test_unrelated_latents_do_not_match() -> None:
    values_TG, other_TF = (torch.from_numpy(planted_latents(num_latents=12, seed=seed)) for seed in (0, 1))
    assert match(values_TG, other_TF, torch.eye(12), torch.eye(12)).correlation < 0.1


def test_a_column_that_does_not_vary_correlates_with_nothing() -> None:
    columns_TM = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    assert correlations(columns_TM, columns_TM).tolist() == [[0.0, 0.0], [0.0, pytest.approx(1.0)]]


def test_auroc_is_that_of_scikit_learn_with_ties_too() -> None:
    draw = np.random.default_rng(0)
    scores_T, is_T = draw.integers(0, 7, 500).astype(np.float32), draw.random(500) < 0.3
    assert auroc(scores_T, is_T) == pytest.approx(roc_auc_score(is_T, scores_T))
    assert auroc(scores_T, np.zeros(500, dtype=np.bool_)) == 0.5


def test_the_group_of_a_split_concept_is_found_where_one_latent_is_not_enough() -> None:
    train_TF, heldout_TF = planted_latents(seed=0), planted_latents(seed=1)
    parts = [3, 11, 30]
    is_T, heldout_is_T = ((latents_TF[:, parts] > 0).any(axis=1) for latents_TF in (train_TF, heldout_TF))
    single, group = best_group(train_TF, is_T, heldout_TF, heldout_is_T, size=4)
    assert set(parts) <= set(group.latents)
    assert group.auroc > 0.98
    assert single.auroc < 0.75


def test_selection_takes_what_adds_most_and_nothing_twice() -> None:
    train_TF = planted_latents()
    train_TF[:, 7] = train_TF[:, 3]  # a copy adds nothing
    is_T = (train_TF[:, [3, 11]] > 0).any(axis=1)
    chosen = forward_selection(train_TF, is_T, 3)
    assert len(set(chosen)) == 3
    assert {3, 11} <= set(chosen[:2])


def test_shuffled_labels_leave_chance() -> None:
    train_TF, heldout_TF = planted_latents(seed=0), planted_latents(seed=1)
    draw = np.random.default_rng(0)
    is_T, heldout_is_T = draw.random(len(train_TF)) < 0.2, draw.random(len(heldout_TF)) < 0.2
    assert best_group(train_TF, is_T, heldout_TF, heldout_is_T)[1].auroc == pytest.approx(0.5, abs=0.05)


def test_the_latent_that_fires_like_a_concept_is_found_with_its_f1() -> None:
    latents_TF = planted_latents()
    latents_TF[:, 5] = np.where(latents_TF[:, 5] > 0, 1.0, 0.05)  # weak everywhere else
    firing = best_firing(latents_TF, latents_TF[:, 5] == 1)
    assert firing.latent == 5
    assert firing.f1 == firing.f1_on(latents_TF, latents_TF[:, 5] == 1) == 1.0
