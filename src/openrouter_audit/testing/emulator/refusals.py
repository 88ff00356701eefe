"""
How OpenRouter says no: the error bodies, by the names under which the examples keep them.

The status is the first three digits of a name. Whether a refusal carries `X-Generation-Id` follows the recordings: most do,
although no generation exists; those given before a key was accepted, at the edge, or with another envelope do not.
"""

import copy
from dataclasses import dataclass, field
from typing import Any

USER_ID = "user_2yExAmPlEoNlY0000000000000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One error answer before a stream has begun."""

    status: int
    body: Any
    """A JSON object; text for what the edge answers."""
    headers: tuple[tuple[str, str], ...] = field(default=())
    has_id: bool = True
    """Whether the answer has the header `X-Generation-Id`."""


def error_body(code: int | str, message: str, *, user: bool = True, **metadata: Any) -> dict[str, Any]:
    """The envelope of every interface but Messages; `user` tells whether the account's id stands beside the error."""
    error: dict[str, Any] = {"message": message, "code": code}
    if metadata:
        error["metadata"] = metadata
    return {"error": error, "user_id": USER_ID} if user else {"error": error}


def _rate_limit(limit: str, reset_ms: str) -> dict[str, str]:
    return {"X-RateLimit-Limit": limit, "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset_ms}


_PER_MINUTE = _rate_limit("20", "1795424460000")
_PER_DAY = _rate_limit("50", "1795478400000")
_ZOD = '[\n  {\n    "expected": "string",\n    "code": "invalid_type",\n    "path": [\n      "input"\n    ],\n    "message": "Invalid input: expected string, received undefined"\n  }\n]'

_BODIES: dict[str, Any] = {
    "400_context_length": error_body(
        400,
        "This endpoint's maximum context length is 131072 tokens. However, you requested about 140213 tokens (139189 of text"
        " input, 1024 in the output). Please reduce the length of either one.",
        provider_name=None,
    ),
    "400_invalid_model": error_body(400, "acme/nope is not a valid model ID"),
    "400_missing_input": error_body(400, 'Input required: specify "prompt" or "messages"'),
    "400_no_token": error_body(400, "Input must have at least 1 token."),
    "400_provider": error_body(
        400, "Provider returned error", raw='{"error":{"message":"Unsupported parameter: seed"}}', provider_name="Azure", is_byok=False
    ),
    "400_zod": {"success": False, "error": {"name": "ZodError", "message": _ZOD}},
    "401_missing_header": error_body(401, "Missing Authentication header", user=False),
    "401_user_not_found": error_body(401, "User not found.", user=False),
    "402_in_flight_budget": error_body(
        402,
        "Too many requests in flight for the remaining credits. Retry shortly.",
        limit_source="openrouter_in_flight_budget",
        reason="in_flight_budget_exhausted",
        retry_after_seconds=2,
    ),
    "402_max_tokens": error_body(
        402,
        "This request requires more credits, or fewer max_tokens. You requested up to 65536 tokens, but can only afford 2112. To"
        " increase, visit https://openrouter.ai/settings/credits and add more credits",
        provider_name=None,
        previous_errors=[{"code": 402, "message": "This request requires more credits, or fewer max_tokens."}],
        limit_source="openrouter_credits",
        remedy_hint="add_credits",
    ),
    "402_no_credits": error_body(402, "Insufficient credits. Add more using https://openrouter.ai/credits"),
    "403_guardrail": error_body(
        403, "Request blocked by content filter", patterns=["US SSN"], error_type="content_policy_violation"
    ),
    "403_key_limit": error_body(403, "Key limit exceeded (monthly limit). Manage it using https://openrouter.ai/settings/keys"),
    "403_management_only": error_body(403, "Only management keys can perform this operation", user=False),
    "403_moderation": error_body(
        403,
        "Your chosen model requires moderation and your input was flagged",
        reasons=["violence"],
        flagged_input="up to one hundred characters of the prompt are repeated here ... and may be personal data",
        provider_name="OpenAI",
        model_slug="openai/gpt-4.1-mini",
    ),
    "404_data_policy": error_body(
        404, "No endpoints found matching your data policy (Paid model training). Configure: https://openrouter.ai/settings/privacy"
    ),
    "404_generation": error_body(404, "Generation gen-1795425700-X4NDce7WBvizuOAr7y11 not found", user=False),
    "404_no_endpoints_availability": {
        "error": {
            "code": 404,
            "message": "No endpoints found for acme/old-model.",
            "metadata": {"error_type": "not_found"},
            "availability": {
                "code": "model_deprecated",
                "retryable": False,
                "requested_models": ["acme/old-model"],
                "fallback_models": ["acme/new-model"],
                "docs_url": "https://openrouter.ai/docs/guides/routing/model-availability",
            },
        }
    },
    "404_route": error_body(404, "Not Found", user=False),
    "408_timeout": error_body(408, "Request timed out", user=False),
    "413_too_large": error_body(413, "Request body too large", user=False, error_type="payload_too_large"),
    "422_unprocessable": error_body(422, "max_completion_tokens must be at least 16", user=False, error_type="unprocessable"),
    "429_platform_free_day": error_body(
        429,
        "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day",
        headers=_PER_DAY,
        provider_name=None,
    ),
    "429_platform_free_minute": error_body(
        429, "Rate limit exceeded: free-models-per-min. ", headers=_PER_MINUTE, provider_name=None
    ),
    "429_upstream": error_body(
        429,
        "Provider returned error",
        raw="z-ai/glm-4.5-air:free is temporarily rate-limited upstream. Please retry shortly.",
        provider_name="Z.AI",
        is_byok=False,
        provider_error_code="429",
        limit_source="upstream_provider_shared_pool",
        remedy_hint="retry_or_add_own_key",
        retry_after_seconds=7,
        retry_after_seconds_raw=6.4,
        headers={"Retry-After": "7"},
    ),
    "499_client_closed": error_body(499, "Client closed request", user=False),
    "500_internal": error_body(500, "Internal Server Error", user=False),
    "502_provider": error_body(
        502,
        "Provider returned error",
        raw="upstream connect error",
        provider_name="DeepInfra",
        error_type="provider_unavailable",
        previous_errors=[{"code": 503, "message": "overloaded"}],
    ),
    "503_no_provider": error_body(
        503,
        "There is no available model provider that meets your routing requirements",
        user=False,
        error_type="provider_overloaded",
    ),
    "504_gateway": error_body(504, "Provider timed out", user=False, error_type="timeout"),
    "524_cloudflare": "error code: 524\n",
    "524_edge_timeout": error_body(524, "Edge network timeout", user=False),
    "529_overloaded": error_body(
        529, "Provider overloaded", user=False, provider_name="Anthropic", error_type="provider_overloaded"
    ),
}  # fmt: skip
NAMES = tuple(_BODIES)

_HEADERS: dict[str, tuple[tuple[str, str], ...]] = {
    "402_in_flight_budget": (("Retry-After", "2"),),
    "429_platform_free_day": tuple(_PER_DAY.items()),
    "429_platform_free_minute": tuple(_PER_MINUTE.items()),
    "429_upstream": (("Retry-After", "7"),),
    "503_no_provider": (("Retry-After", "5"),),
}
_WITHOUT_ID = frozenset({
    "400_zod", "401_missing_header", "401_user_not_found", "403_management_only", "404_generation", "404_route", "499_client_closed",
    "524_cloudflare", "524_edge_timeout",
})  # fmt: skip
_OF_STATUS = {
    400: "400_provider",
    401: "401_user_not_found",
    402: "402_no_credits",
    403: "403_key_limit",
    404: "404_data_policy",
    429: "429_upstream",
    524: "524_edge_timeout",
}
"""The usual one where a status has several; any other status has the first name that begins with it."""


def refusal(name: str) -> Refusal:
    """The refusal of that name, its body a copy of its own."""
    return Refusal(
        status=int(name[:3]),
        body=copy.deepcopy(_BODIES[name]),
        headers=_HEADERS.get(name, ()),
        has_id=name not in _WITHOUT_ID,
    )


def refusal_for_status(status: int) -> Refusal:
    """The usual refusal with that HTTP status; a plain envelope where OpenRouter is not known to use it."""
    name = _OF_STATUS.get(status) or next((name for name in NAMES if name.startswith(str(status))), None)
    if name:
        return refusal(name)
    return Refusal(status=status, body=error_body(status, f"Error {status}", user=False))


def asked_refusal(
    *, status: int | None, error: str | dict[str, Any] | None, code: int | str | None, retry_after: str | None
) -> Refusal | None:
    """The refusal that the switches `status`, `error`, `error_code` and `retry_after` describe, None where they ask for none."""
    if error is None and (status is None or status < 400):
        return None
    if isinstance(error, str):
        base = refusal(error)
    elif error is not None:
        body = copy.deepcopy(error) if "error" in error else {"error": copy.deepcopy(error), "user_id": USER_ID}
        own = body["error"].get("code") if isinstance(body["error"], dict) else None
        base = Refusal(status=own if isinstance(own, int) and 400 <= own <= 599 else 400, body=body)
    else:
        base = refusal_for_status(status or 500)
    if code is not None and isinstance(base.body, dict) and isinstance(base.body.get("error"), dict):
        base.body["error"]["code"] = code
    headers = base.headers
    if retry_after is not None:
        headers = (*(pair for pair in headers if pair[0] != "Retry-After"), ("Retry-After", retry_after))
    return Refusal(
        status=base.status if status is None else status, body=base.body, headers=headers, has_id=base.has_id
    )
