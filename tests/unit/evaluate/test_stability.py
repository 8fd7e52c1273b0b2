"""The stability step on dictionaries whose agreement is known."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mistudio.artifacts import Store, open_store
from mistudio.artifacts.local import LocalStore
from mistudio.errors import InputError
from mistudio.evaluate.config import StabilityConfig
from mistudio.evaluate.stability import STABILITY_NAME, match_name, stability
from tests.support.dictionaries import FEATURES, dictionary, published


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def test_a_dictionary_with_rows_exchanged_and_rescaled_is_found_again_in_full(store: Store) -> None:
    order = torch.randperm(FEATURES, generator=torch.Generator().manual_seed(5))
    saes = [published(store, dictionary()), published(store, 2 * dictionary()[order])]
    summary = stability(store, saes).artifact.manifest.summary
    assert summary["matched_cosine"] == pytest.approx(1)
    assert summary["max_cosine"] == pytest.approx(1)
    assert summary["share_found_again"] == 1
    assert summary["control.random_matched_cosine"] < 0.6
    assert summary["control.random_share_found_again"] < 0.1
    assert (summary["autoencoders"], summary["pairs"], summary["width"]) == (2, 1, FEATURES)


def test_the_share_that_was_kept_is_the_share_that_is_found_again(store: Store) -> None:
    half = dictionary(seed=1)
    half[: FEATURES // 2] = dictionary()[: FEATURES // 2]
    summary = stability(store, [published(store, dictionary()), published(store, half)]).artifact.manifest.summary
    assert summary["share_found_again"] == pytest.approx(0.5, abs=0.05)
    low = StabilityConfig(found_above=0.01)
    saes = [published(store, dictionary()), published(store, half)]
    assert stability(store, saes, low).artifact.manifest.summary["share_found_again"] == 1


def test_unrelated_dictionaries_agree_no_more_than_with_a_random_one(store: Store) -> None:
    saes = [published(store, dictionary(seed)) for seed in (0, 1)]
    summary = stability(store, saes).artifact.manifest.summary
    assert summary["matched_cosine"] == pytest.approx(summary["control.random_matched_cosine"], abs=0.03)
    assert summary["max_cosine"] == pytest.approx(summary["control.random_max_cosine"], abs=0.03)


def test_every_pair_is_compared_and_the_summary_is_the_mean(store: Store) -> None:
    saes = [published(store, dictionary(seed)) for seed in (0, 1, 2)]
    artifact = stability(store, saes).artifact
    pairs = json.loads(artifact.file(STABILITY_NAME).read_bytes())["pairs"]
    assert len(pairs) == 3
    assert {frozenset((pair["first"], pair["second"])) for pair in pairs} == {
        frozenset((one.uri, other.uri)) for one in saes for other in saes if one is not other
    }
    for name in ("matched_cosine", "max_cosine", "control.random_max_cosine"):
        assert artifact.manifest.summary[name] == pytest.approx(np.mean([pair[name] for pair in pairs]), abs=1e-6)


def test_the_table_of_matches_gives_each_latents_partner(store: Store) -> None:
    order = torch.randperm(FEATURES, generator=torch.Generator().manual_seed(5))
    saes = sorted([published(store, dictionary()), published(store, dictionary()[order])], key=lambda sae: sae.uri)
    table = pq.read_table(stability(store, saes).artifact.file(match_name(0, 1)))
    partner_of_second = order.numpy()[table["match"].to_numpy()]
    partner_of_first = np.argsort(order.numpy())[table["match"].to_numpy()]
    assert table["feature"].to_pylist() == list(range(FEATURES))
    assert any((partner == np.arange(FEATURES)).all() for partner in (partner_of_first, partner_of_second))
    np.testing.assert_allclose(table["max_cosine_of_match"].to_numpy(), 1, rtol=1e-5)


def test_it_is_found_again_whatever_the_order(store: Store) -> None:
    saes = [published(store, dictionary(seed)) for seed in (0, 1)]
    first = stability(store, saes)
    again = stability(store, saes[::-1])
    assert not first.found
    assert again.found
    assert again.artifact.digest == first.artifact.digest
    assert not stability(store, saes, seed=1).found


def test_a_killed_comparison_goes_on_at_the_next_pair(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    saes = [published(store, dictionary(seed)) for seed in (0, 1, 2)]
    put, staged = LocalStore.put, []

    def stop_at_the_second(self: LocalStore, name: str) -> object:
        staged.append(name)
        if len(staged) == 2:
            raise KeyboardInterrupt
        return put(self, name)

    monkeypatch.setattr(LocalStore, "put", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        stability(store, saes)
    monkeypatch.setattr(LocalStore, "put", lambda self, name: (staged.append(name), put(self, name))[1])
    produced = stability(store, saes)
    matches = [name for name in staged if "matches/" in name]
    assert [name.rpartition("/")[2] for name in matches] == [
        "000-001.parquet",
        "000-002.parquet",
        "000-002.parquet",
        "001-002.parquet",
    ]
    assert len(produced.artifact.paths("matches/")) == 3


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_are_refused(store: Store, count: int) -> None:
    with pytest.raises(InputError, match=f"two or more autoencoders, not {count}"):
        stability(store, [published(store, dictionary())][:count])


def test_the_same_one_twice_is_refused(store: Store) -> None:
    with pytest.raises(InputError, match="named twice"):
        stability(store, [published(store, dictionary())] * 2)


def test_other_widths_and_hook_points_are_refused(store: Store) -> None:
    one = published(store, dictionary())
    for other in (published(store, dictionary(width=80)), published(store, dictionary(1), hook="resid_post.2")):
        with pytest.raises(InputError, match=r"one width, .* one hook point.*96 latents over 40 dimensions"):
            stability(store, [one, other])
    transcoder = published(store, dictionary(1), target="mlp_out.1")
    with pytest.raises(InputError, match=r"resid_post\.1 to mlp_out\.1"):
        stability(store, [one, transcoder])
