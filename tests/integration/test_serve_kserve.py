"""KServe's protocols of a real server: V1 and V2 over REST, V2 over gRPC, with the same answers and refusals."""

import json
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from model_servers.base.keys import ENVIRONMENT, read_keys
from model_servers.base.server import ModelServer
from model_servers.base.settings import ServerSettings
from model_servers.steer.predictor import SteerPredictor
from tests.support.served import TinyStore, tiny_store
from tests.support.serving import serving, url_of

NAME = "model"
SECRET = "correct-horse-battery"
PROMPTS = ["the cat sat", "once"]
SETTINGS = {"max_tokens": 6, "temperature": 0}
STEERING = {"edits": [{"op": "add", "feature": 3, "strength": 2.0, "unit": "relative"}], "watch": [3]}
PREDICT, INFER = f"/v1/models/{NAME}:predict", f"/v2/models/{NAME}/infer"
REQUEST_TENSOR = {"name": "request", "shape": [1], "datatype": "BYTES"}
METADATA = (("authorization", f"Bearer {SECRET}"), ("x-request-id", "mine"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    return tiny_store(tmp_path_factory)


@pytest.fixture(scope="module")
def server(tiny: TinyStore) -> Iterator[ModelServer]:
    keys = read_keys(ServerSettings(), {ENVIRONMENT: f"alice:{SECRET}"})
    with serving([SteerPredictor(tiny.shared())], keys, grpc_port=0, max_body_bytes=100_000) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: ModelServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url_of(server), timeout=60, headers=dict(METADATA[:1])) as made:
        yield made


@pytest.fixture(scope="module")
def stub(server: ModelServer) -> Iterator[Any]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield GRPCInferenceServiceStub(channel)


def answers(client: httpx.Client, **more: Any) -> list[str]:
    """What OpenAI's API gives."""
    body = {"model": NAME, "prompt": PROMPTS, **SETTINGS, **more}
    return [choice["text"] for choice in client.post("/openai/v1/completions", json=body).json()["choices"]]


def tensor(name: str, data: list[Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "shape": [len(data)], "datatype": "BYTES", "data": data, **more}


def test_v1_predicts_instances_as_openais_api_does(client: httpx.Client) -> None:
    instances = [{"prompt": prompt, **SETTINGS, "logprobs": 1} for prompt in PROMPTS]
    predictions = client.post(PREDICT, json={"instances": instances}).json()["predictions"]
    assert [each["choices"][0]["text"] for each in predictions] == answers(client)
    assert predictions[0]["usage"]["completion_tokens"] == len(predictions[0]["choices"][0]["logprobs"]) == 6


def test_v1_steers(client: httpx.Client) -> None:
    instances = [{"prompt": prompt, **SETTINGS, "steering": {**STEERING, "compare": True}} for prompt in PROMPTS]
    predictions = client.post(PREDICT, json={"instances": instances}).json()["predictions"]
    choices = [each["choices"][0] for each in predictions]
    assert [choice["text"] for choice in choices] == answers(client, steering=STEERING)
    assert [choice["steering"]["comparison"]["plain_text"] for choice in choices] == answers(client)
    assert len(choices[0]["steering"]["watched"]) == 6


def test_v2_takes_prompts_with_parameters_or_whole_requests(client: httpx.Client) -> None:
    parameters = {**SETTINGS, "steering": json.dumps(STEERING)}
    by_prompt = client.post(INFER, json={"id": "7", "inputs": [tensor("prompt", PROMPTS)], "parameters": parameters})
    whole = [json.dumps({"prompt": prompt, **SETTINGS, "steering": STEERING}) for prompt in PROMPTS]
    by_request = client.post(INFER, json={"id": "7", "inputs": [tensor("request", whole)]})
    outputs, others = (
        {output["name"]: output["data"] for output in answer.json()["outputs"]} for answer in (by_prompt, by_request)
    )
    assert outputs["text"] == others["text"] == answers(client, steering=STEERING)
    assert [json.loads(each)["choices"][0]["text"] for each in outputs["response"]] == outputs["text"]
    assert (by_prompt.json()["id"], by_prompt.json()["model_name"]) == ("7", NAME)


def test_v2_gives_the_tensors_that_are_asked_for(client: httpx.Client) -> None:
    body = {"inputs": [tensor("prompt", PROMPTS)], "parameters": SETTINGS, "outputs": [{"name": "text"}]}
    (output,) = client.post(INFER, json=body).json()["outputs"]
    assert (output["name"], output["data"]) == ("text", answers(client))


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        (PREDICT, {}, "instances"),
        (PREDICT, {"instances": []}, "0 instances"),
        (PREDICT, {"instances": [1]}, "instances"),
        (PREDICT, {"instances": [{"prompt": "a"}] * 129}, "129"),
        (PREDICT, {"instances": [{"prompt": "a"}], "more": 1}, "'more'"),
        (PREDICT, {"instances": [{}]}, "prompt or messages"),
        (PREDICT, {"instances": [{"prompt": "a"}, {"prompt": "a", "top_p": 2}]}, "instances[1].top_p"),
        (PREDICT, {"instances": [{"prompt": "a", "sampling": {"top_p": 1}}]}, "instances[0].sampling"),
        (PREDICT, {"instances": [{"prompt": "a", "steering": {"edits": [{"op": "x"}]}}]}, "[0].steering.edits[0]"),
        (INFER, {}, "inputs"),
        (INFER, {"inputs": []}, "prompt or request"),
        (INFER, {"inputs": [tensor("other", ["a"])]}, "prompt or request"),
        (INFER, {"inputs": [tensor("prompt", ["a"], shape=[2])]}, "shape"),
        (INFER, {"inputs": [tensor("prompt", ["a"], shape=[-1, -1])]}, "shape"),
        (INFER, {"inputs": [tensor("prompt", ["a"], shape=[10**90] * 500)]}, "shape"),
        (INFER, {"inputs": [tensor("prompt", [1])]}, "text"),
        (INFER, {"inputs": [tensor("prompt", [["a"]])]}, "text"),
        (INFER, {"inputs": [tensor("prompt", [1.5], datatype="FP32")]}, "BYTES"),
        (INFER, {"inputs": [tensor("prompt", [1.5], datatype="FP16")]}, "FP16"),
        (INFER, {"inputs": [tensor("request", ["{"])]}, "request[0]"),
        (INFER, {"inputs": [tensor("request", ['{"prompt": "a"}'])], "parameters": {"n": 1}}, "parameters"),
        (INFER, {"inputs": [tensor("prompt", ["a"])], "parameters": {"steering": "{"}}, "parameters.steering"),
        (INFER, {"inputs": [tensor("prompt", ["a"])], "parameters": {"frequency": 1}}, "frequency"),
        (INFER, {"inputs": [tensor("prompt", ["a"])], "parameters": {"prompt": '"b"'}}, "prompt"),
        (INFER, {"inputs": [tensor("prompt", ["a"])], "outputs": [{"name": "logits"}]}, "logits"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(client: httpx.Client, path: str, body: dict[str, Any], said: str) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]


def test_a_model_that_is_not_there_and_tensors_behind_the_json_are_refused(client: httpx.Client) -> None:
    assert client.post("/v1/models/other:predict", json={"instances": [{"prompt": "a"}]}).status_code == 404
    assert client.post("/v2/models/other/infer", json={"inputs": []}).status_code == 404
    binary = {"inference-header-content-length": "2", "content-type": "application/octet-stream"}
    assert client.post(INFER, content=b"{}xx", headers=binary).status_code == 415
    assert client.post("/v2/repository/models/model/unload").status_code == 404


def infer_request(**fields: Any) -> messages.ModelInferRequest:
    return messages.ModelInferRequest(model_name=NAME, **fields)


def test_grpc_gives_the_same_answers(client: httpx.Client, stub: Any) -> None:
    parameters = {
        "max_tokens": messages.InferParameter(int64_param=6),
        "temperature": messages.InferParameter(string_param="0.0"),
        "steering": messages.InferParameter(string_param=json.dumps(STEERING)),
    }
    contents = {"bytes_contents": [prompt.encode() for prompt in PROMPTS]}
    inputs = [{"name": "prompt", "shape": [2], "datatype": "BYTES", "contents": contents}]
    answer, call = stub.ModelInfer.with_call(infer_request(inputs=inputs, parameters=parameters), metadata=METADATA)
    outputs = {output.name: [each.decode() for each in output.contents.bytes_contents] for output in answer.outputs}
    assert outputs["text"] == answers(client, steering=STEERING)
    assert call.code() == grpc.StatusCode.OK


def test_grpc_takes_raw_tensors_and_gives_them_back(client: httpx.Client, stub: Any) -> None:
    requests = [json.dumps({"prompt": prompt, **SETTINGS}).encode() for prompt in PROMPTS]
    raw = b"".join(len(each).to_bytes(4, "little") + each for each in requests)
    inputs = [{"name": "request", "shape": [2], "datatype": "BYTES"}]
    answer = stub.ModelInfer(infer_request(inputs=inputs, raw_input_contents=[raw]), metadata=METADATA)
    text = answer.raw_output_contents[0]
    assert text == b"".join(len(each.encode()).to_bytes(4, "little") + each.encode() for each in answers(client))


@pytest.mark.parametrize(
    ("request_", "metadata", "code", "said"),
    [
        (infer_request(), (), grpc.StatusCode.UNAUTHENTICATED, "key"),
        (infer_request(), METADATA, grpc.StatusCode.INVALID_ARGUMENT, "prompt or request"),
        (messages.ModelInferRequest(model_name="other"), METADATA, grpc.StatusCode.NOT_FOUND, "other"),
        (
            infer_request(inputs=[REQUEST_TENSOR], raw_input_contents=[b"\xff\xff"]),
            METADATA, grpc.StatusCode.INVALID_ARGUMENT, "ends within an element",
        ),
        (
            infer_request(inputs=[{**REQUEST_TENSOR, "datatype": "WORDS"}]),
            METADATA, grpc.StatusCode.INVALID_ARGUMENT, "content type",
        ),
        (
            infer_request(inputs=[{**REQUEST_TENSOR, "contents": {"bytes_contents": [b"\xff"]}}]),
            METADATA, grpc.StatusCode.INVALID_ARGUMENT, "UTF-8",
        ),
    ],
)  # fmt: skip
def test_grpc_refuses_as_http_does(stub: Any, request_: Any, metadata: Any, code: Any, said: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request_, metadata=metadata)
    error: Any = caught.value
    assert error.code() == code
    assert said in error.details()


def test_grpc_health_needs_no_key_and_models_are_not_unloaded_by_clients(stub: Any, client: httpx.Client) -> None:
    assert stub.ServerLive(messages.ServerLiveRequest()).live
    assert stub.ServerReady(messages.ServerReadyRequest()).ready
    assert stub.ModelReady(messages.ModelReadyRequest(name=NAME)).ready
    metadata = stub.ModelMetadata(messages.ModelMetadataRequest(name=NAME), metadata=METADATA)
    assert [output.name for output in metadata.outputs] == ["text", "response"]
    with pytest.raises(grpc.RpcError) as caught:
        stub.RepositoryModelUnload(messages.RepositoryModelUnloadRequest(model_name=NAME), metadata=METADATA)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]
    assert client.get(f"/v2/models/{NAME}/ready").status_code == 200


def test_a_grpc_client_that_gives_up_frees_its_rows(stub: Any, client: httpx.Client) -> None:
    long = json.dumps({"prompt": "once", "max_tokens": 2000, "ignore_eos": True, "n": 4}).encode()
    inputs = [{"name": "request", "shape": [1], "datatype": "BYTES", "contents": {"bytes_contents": [long]}}]
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(infer_request(inputs=inputs), metadata=METADATA, timeout=0.3)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]
    for _ in range(1000):
        lines = client.get("/metrics").text.splitlines()
        if "mistudio_steer_rows_in_use 0.0" in lines and "mistudio_requests_active 0.0" in lines:
            break
    else:
        pytest.fail("rows stay in use")
    assert "mistudio_steer_cancelled_total 1.0" in lines
