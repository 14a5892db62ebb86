"""Refusals: whom they concern, one prompt or the whole job."""

from __future__ import annotations

from typing import Any

import pytest

from mjd.llm.openai.errors import concerns

SENT = {"model": "m", "messages": [], "logprobs": True, "top_logprobs": 20, "max_tokens": 1, "temperature": 0}


def error(message: str, code: str | None = None, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "code": code, **more}}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, error("filtered", "content_filter", param="prompt", innererror={"code": "ResponsibleAIPolicyViolation"})),
        (400, error("rejected by our safety system", "content_policy_violation")),
        (400, error("Input data may contain inappropriate content.", "data_inspection_failed")),
        (400, error("Output data may contain inappropriate content.", "DataInspectionFailed")),
        (
            400,
            error("This model's maximum context length is 2048 tokens.", "context_length_exceeded", param="messages"),
        ),
        (400, {"object": "error", "message": "This model's maximum context length is 2048 tokens.", "code": 400}),
        (400, error("the request exceeds the available context size", type="exceed_context_size_error")),
        (400, error("prompt is too long: 210000 tokens")),
        (400, error("Invalid prompt: flagged as potentially violating our usage policy.", "invalid_prompt")),
        (403, error("requires moderation", metadata={"reasons": ["violence"]})),
        (400, error("Content Exists Risk", "invalid_request_error")),
        (400, {"message": "The request was blocked by guardrail"}),
        (400, error("The input token count (40000) exceeds the maximum number of tokens allowed (32768).")),
        (413, error("payload too large")),
        (422, error("flagged")),
        (451, error("unavailable")),
    ],
)
def test_a_refusal_of_a_prompt_is_the_prompts(status: int, body: Any) -> None:
    assert concerns(status, body, SENT) == "prompt"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, error("Incorrect API key")),
        (402, error("Insufficient balance")),
        (403, error("Country not supported")),
        (404, error("The model `m` does not exist", "model_not_found")),
        (400, error("The model `m` does not exist")),
        (400, error("Unrecognized request argument supplied: top_logprobs")),
        (400, error("bad", param="top_logprobs")),
        (400, error("bad", "unsupported_value", param="temperature")),
        (400, error("logprobs is not supported with this model")),
        (422, {"detail": [{"loc": ["body", "top_logprobs"], "msg": "too large", "input": "content_filter"}]}),
        (429, error("You exceeded your current quota", "insufficient_quota")),
    ],
)
def test_a_refusal_of_all_is_the_jobs(status: int, body: Any) -> None:
    assert concerns(status, body, SENT) == "job"


@pytest.mark.parametrize(
    "body",
    [
        error("no"),
        "Bad Request",
        None,
        {},
        error("invalid", type="invalid_request_error"),
        [error("Request contains an invalid argument.", status="INVALID_ARGUMENT")],  # Gemini, of anything
    ],
)
def test_a_refusal_without_a_reason_may_be_either(body: Any) -> None:
    assert concerns(400, body, SENT) == "either"
