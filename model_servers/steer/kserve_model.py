"""The model as KServe's protocols see it: instances of V1, tensors of V2, over REST and gRPC."""

from collections.abc import Sequence
from typing import Any

from kserve import InferRequest, InferResponse, Model

from mistudio.steer.requests import GenerationRequest
from model_servers.base.instances import check_number, instances_in
from model_servers.steer.answers import Answer, Outcome, finite, outcomes, steering_of, usage_of
from model_servers.steer.openai.choices import ending
from model_servers.steer.parsing import generation_request
from model_servers.steer.served import Served
from model_servers.steer.tensors import INPUTS, OUTPUTS, instances_of, tensors_of

MAX_INSTANCES = 128
_EXAMPLE = '{"prompt": "Once upon"}'


class TextModel(Model):  # type: ignore[misc]
    """Answers requests of V1 and V2; an instance is a request of the engine's, flat.

    Args:
        served: the predictor.
    """

    def __init__(self, served: Served) -> None:
        super().__init__(served.model_name())
        self._served = served

    def get_input_types(self) -> list[dict[str, Any]]:
        """Tensors that are read, for V2's metadata: one of them a request."""
        return [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in INPUTS]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Tensors that come back."""
        return [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in OUTPUTS]

    async def predict(
        self, payload: dict[str, Any] | InferRequest, headers: dict[str, str] | None = None
    ) -> dict[str, Any] | InferResponse:
        """Answers to all instances.

        Raises:
            InputError: one asks for what cannot be done.
            Refused: the payload cannot be read, or the engine takes no more.
        """
        is_v1 = isinstance(payload, dict)
        run = self._served.new_run("v1" if is_v1 else "v2", headers or {})
        try:
            requests = await run.start(
                lambda: _requests(instances_in(payload, _EXAMPLE) if is_v1 else instances_of(payload), is_v1)
            )
            found = await outcomes(run, requests)
        finally:
            run.cancel()
        predictions = [_prediction(request, outcome) for request, outcome in zip(requests, found, strict=True)]
        return {"predictions": predictions} if is_v1 else tensors_of(payload, self.name, predictions)


def _requests(instances: Sequence[dict[str, Any]], is_v1: bool) -> list[GenerationRequest]:
    check_number(instances, MAX_INSTANCES, "instances" if is_v1 else "inputs")
    name = "instances" if is_v1 else "request"
    return [generation_request(each, above=f"{name}[{number}]") for number, each in enumerate(instances)]


def _prediction(request: GenerationRequest, outcome: Outcome) -> dict[str, Any]:
    choices = []
    for index, answer in enumerate(outcome.answers):
        comparison = outcome.comparison if index == 0 else None
        steering = steering_of(request, answer.watched, comparison, answer.finished)
        choices.append(
            {"index": index, "text": answer.text, **_logprobs(request, answer), **ending(answer.finished)} | steering
        )
    return {"choices": choices, "usage": usage_of([outcome.usage])}


def _logprobs(request: GenerationRequest, answer: Answer) -> dict[str, Any]:
    if request.logprobs is None:
        return {}
    content = []
    for token in answer.logprobs:
        top = [{"token": each.token, "token_id": each.token_id, "logprob": finite(each.logprob)} for each in token.top]
        own = {"token": token.token, "token_id": token.token_id, "logprob": finite(token.logprob)}
        content.append({**own, "top_logprobs": top})
    return {"logprobs": content}
