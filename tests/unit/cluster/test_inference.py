"""InferenceServices as they are written and read, without a cluster."""

import json
from typing import Any

import pytest

from mistudio.cluster import asking, inference
from mistudio.cluster.asking import Counts, counted
from mistudio.cluster.config import DeployConfig, Place
from mistudio.cluster.inference import Deployed
from mistudio.errors import ConfigError
from mistudio.settings import validated

OLD = Deployed("sae/0000000000000000", "mistudio-steer", {"sae-digest": "of the old"})
NEW = Deployed("sae/1111111111111111", "mistudio-steer", {"sae-digest": "of the new"})
PLACE = Place("services", "steer")


def service(**predictor: Any) -> dict[str, Any]:
    made = inference.new_service(PLACE, OLD)
    made["spec"]["predictor"] |= predictor
    return made


def test_what_somebody_else_has_set_of_a_predictor_stays() -> None:
    before = service(minReplicas=2, nodeSelector={"gpu": "a"})["spec"]["predictor"]
    before["annotations"]["theirs"] = "kept"
    before["model"] |= {
        "args": ["--rows", "32", "--line=sae/0000000000000000", "--line", "sae/2"],
        "storageUri": "s3://x",
    }
    after = NEW.predictor(before)
    assert after["model"]["args"] == ["--line", NEW.line, "--rows", "32"]
    assert "storageUri" not in after["model"]
    assert (after["minReplicas"], after["nodeSelector"]) == (2, {"gpu": "a"})
    assert after["annotations"]["theirs"] == "kept"
    assert after["annotations"]["mistudio.io/sae-digest"] == "of the new"
    former = inference.former_of(after)
    assert former is not None
    assert former["model"] == before["model"]
    again = inference.former_of(OLD.predictor(after))
    assert again is not None
    assert "mistudio.io/former" not in again["annotations"]  # what was before it is not kept without end


def test_a_canary_takes_over_the_stable_predictor_without_what_scales_it() -> None:
    made = inference.with_canary(service(maxReplicas=4, scaleTarget=3, minReplicas=2), NEW, "sae-11111111", 20)
    (entry,) = inference.canaries(made)
    assert entry["trafficPercent"] == 20
    assert entry["predictor"]["minReplicas"] == 1
    assert not {"maxReplicas", "scaleTarget"} & set(entry["predictor"])
    assert entry["predictor"]["model"]["name"] == "kserve-container"  # which the schema asks for
    more = inference.with_canary(made, NEW, "sae-11111111", 50)
    assert inference.canaries(more) == [{**entry, "trafficPercent": 50}]
    promoted = inference.promoted(more, entry["predictor"])
    assert "canary" not in promoted["spec"]
    stable = promoted["spec"]["predictor"]
    assert (stable["name"], stable["maxReplicas"], stable["minReplicas"]) == ("sae-11111111", 4, 2)
    assert (stable["model"], stable["annotations"]) == (entry["predictor"]["model"], entry["predictor"]["annotations"])
    assert inference.without_canary(made, "sae-11111111") == service(maxReplicas=4, scaleTarget=3, minReplicas=2)


def test_a_name_that_another_predictor_kept_is_not_taken_again() -> None:
    replaced = service(name="sae-11111111")  # which served the new one once, and the old one since
    assert inference.free_name(service(), NEW) == "sae-11111111"
    assert inference.free_name(replaced, NEW) == "sae-11111111-2"


def test_a_status_of_before_is_not_taken_for_one_of_now() -> None:
    made = service()
    made["metadata"]["generation"] = 2
    ready = {"type": "Ready", "status": "True"}
    state = {
        "transitionStatus": "BlockedByFailedLoad",
        "lastFailureInfo": {"reason": "ModelLoadFailed", "message": "no"},
    }
    made["status"] = {"observedGeneration": 1, "conditions": [ready], "modelStatus": state}
    assert (inference.is_ready(made), inference.failure_of(made)) == (False, "")
    made["status"]["observedGeneration"] = 2
    assert inference.is_ready(made)
    assert inference.failure_of(made) == "BlockedByFailedLoad: ModelLoadFailed: no"
    made["status"]["canaryStatuses"] = [{"name": "sae-1", "ready": True}]
    assert inference.is_ready(made, "sae-1")
    assert not inference.is_ready(made, "sae-2")


@pytest.mark.parametrize(
    ("address", "stable", "canary"),
    [
        (
            "",
            "http://steer-predictor.services.svc.cluster.local",
            "http://steer-c-predictor.services.svc.cluster.local",
        ),
        ("http://steer-predictor.services.svc:8080",) * 2 + ("http://steer-c-predictor.services.svc:8080",),
    ],
)
def test_a_canary_is_asked_at_a_service_of_its_own(address: str, stable: str, canary: str) -> None:
    made = service()
    made["status"] = {"address": {"url": address}} if address else {}
    assert (inference.url_of(made), inference.url_of(made, "c")) == (stable, canary)


@pytest.mark.parametrize(
    "text", ["steer", "services/", "Services/steer", "a/b/c", "services/" + "x" * 41, "1/steer", ""]
)
def test_a_place_that_no_cluster_would_take_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="deploy_to.*NAMESPACE/NAME"):
        validated(DeployConfig, {"deploy_to": text})


def test_requests_of_probes_are_not_counted_and_another_replicas_counts_are_no_difference() -> None:
    lines = (
        ("/openai/v1/completions", 200, 12),
        ("/openai/v1/completions", 503, 2),
        ("/metrics", 200, 40),
        ("/v2/health/ready", 503, 9),
        ("none", 404, 1),
    )
    text = "".join(f'mistudio_requests_total{{method="POST",route="{r}",status="{s}"}} {n}.0\n' for r, s, n in lines)
    assert counted(text) == Counts(14, 2)
    assert Counts(14, 2).since(Counts(10, 1)) == Counts(4, 1)
    assert Counts(3, 0).since(Counts(10, 1)) == Counts(3, 0)


def test_the_key_is_its_own_or_the_first_of_the_predictors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MISTUDIO_API_KEY", raising=False)
    monkeypatch.delenv("MISTUDIO_API_KEYS", raising=False)
    assert asking._key().reveal() == ""
    for keys in ("a:first-key-of-theirs,b:other", "a:first-key-of-theirs\nb:other\n"):
        monkeypatch.setenv("MISTUDIO_API_KEYS", keys)
        assert asking._key().reveal() == "first-key-of-theirs"
    monkeypatch.setenv("MISTUDIO_API_KEY", "a-key-of-its-own")
    assert asking._key().reveal() == "a-key-of-its-own"
    monkeypatch.setenv("MISTUDIO_API_KEY", "two words")
    with pytest.raises(ConfigError, match="MISTUDIO_API_KEY") as refused:
        asking.Asking("http://127.0.0.1:1", 1)
    assert "two words" not in str(refused.value)


def test_annotations_are_texts() -> None:
    noted = inference.annotations(NEW.predictor(service()["spec"]["predictor"]))
    assert all(isinstance(value, str) for value in noted.values())
    assert json.loads(noted["mistudio.io/former"])["model"]["args"] == ["--line", OLD.line]
