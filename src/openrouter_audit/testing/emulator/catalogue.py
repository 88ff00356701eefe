"""
The models of the emulator and what they charge.

Prices are made up after the usual ones, in US dollars per token. Amounts are exact decimals, and their text is what
JavaScript would print for the same number, since that is what stands on OpenRouter's wire: `0.0003136`, but `1e-7`.
"""

from dataclasses import dataclass, replace
from decimal import Decimal

_BYOK_FEE = Decimal("0.05")  # of the provider's bill, beyond the monthly allowance


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model and the provider that usually serves it."""

    slug: str
    """What a request asks for."""
    permaslug: str
    """What the answer names."""
    provider: str
    prompt: Decimal
    """Dollars per prompt token."""
    completion: Decimal
    """Dollars per completion token."""
    wire_name: str | None = None
    """Embeddings answer with the provider's own spelling."""


def _model(
    slug: str, permaslug: str, provider: str, prompt: str, completion: str, wire_name: str | None = None
) -> Model:
    return Model(
        slug=slug,
        permaslug=permaslug,
        provider=provider,
        prompt=Decimal(prompt),
        completion=Decimal(completion),
        wire_name=wire_name,
    )


MODELS = {
    model.slug: model
    for model in (
        _model("openai/gpt-4.1-mini", "openai/gpt-4.1-mini-2025-04-14", "OpenAI", "0.0000004", "0.0000016"),
        _model("openai/gpt-4o-mini", "openai/gpt-4o-mini-2024-07-18", "OpenAI", "0.00000015", "0.0000006"),
        _model("openai/gpt-oss-20b", "openai/gpt-oss-20b", "Groq", "0.00000005", "0.0000002"),
        _model("openai/gpt-3.5-turbo-instruct", "openai/gpt-3.5-turbo-instruct", "OpenAI", "0.0000015", "0.000002"),
        _model(
            "anthropic/claude-3.5-sonnet", "anthropic/claude-3.5-sonnet-20241022", "Anthropic", "0.000003", "0.000015"
        ),
        _model(
            "anthropic/claude-sonnet-4.6", "anthropic/claude-4.6-sonnet-20260217", "Anthropic", "0.000003", "0.000015"
        ),
        _model(
            "anthropic/claude-haiku-4.5",
            "anthropic/claude-4.5-haiku-20251001",
            "Amazon Bedrock",
            "0.000001",
            "0.000005",
        ),
        _model("deepseek/deepseek-chat-v3.1", "deepseek/deepseek-chat-v3.1", "DeepInfra", "0.0000002", "0.0000008"),
        _model("z-ai/glm-4.5-air:free", "z-ai/glm-4.5-air:free", "Z.AI", "0", "0"),
        _model(
            "qwen/qwen3-embedding-8b",
            "qwen/qwen3-embedding-8b",
            "DeepInfra",
            "0.00000001",
            "0",
            "Qwen/Qwen3-Embedding-8B",
        ),
        _model(
            "openai/text-embedding-3-small",
            "openai/text-embedding-3-small",
            "OpenAI",
            "0.00000002",
            "0",
            "text-embedding-3-small",
        ),
    )
}
DEFAULT_MODEL = "openai/gpt-4.1-mini"
"""What the account has chosen for requests that name no model."""

CANNOT_ABORT = frozenset({
    "Alibaba", "Amazon Bedrock", "Google", "Google AI Studio", "Groq", "Minimax", "Mistral", "Nebius", "Perplexity", "Replicate",
    "SambaNova",
})  # fmt: skip
"""Providers that run to the end and bill all of it when a client hangs up."""


def find_model(slug: str) -> Model:
    """The model of that name; one that is not listed is served as it was asked for, at a price of its own."""
    known = MODELS.get(slug)
    if known:
        return known
    base, _, variant = slug.partition(":")
    free = variant == "free"
    if base in MODELS and not free:
        return MODELS[base]
    vendor = slug.partition("/")[0] or "openai"
    price = Model(
        slug=slug, permaslug=slug, provider=vendor.title(), prompt=Decimal("0.000001"), completion=Decimal("0.000003")
    )
    return replace(price, prompt=Decimal(0), completion=Decimal(0)) if free else price


def number_text(value: Decimal) -> str:
    """The digits JavaScript prints for a number that is not negative: an exponent below 0.000001 and from 1e21 on."""
    if not value:
        return "0"
    _, digit_tuple, exponent = value.as_tuple()
    digits = "".join(map(str, digit_tuple))
    point = len(digits) + int(exponent)  # the value is 0.DIGITS times ten to this power
    digits = digits.rstrip("0")
    if -6 < point <= 0:
        return "0." + "0" * -point + digits
    if 0 < point <= 21:
        whole, part = digits[:point].ljust(point, "0"), digits[point:]
        return f"{whole}.{part}" if part else whole
    mantissa = digits[0] + ("." + digits[1:] if digits[1:] else "")
    return f"{mantissa}e{'+' if point > 0 else '-'}{abs(point - 1)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What one call costs, each amount as the text on the wire."""

    total: str
    """Charged to the account."""
    upstream: str
    """The provider's bill: the same money again, but under BYOK."""
    prompt_part: str
    completion_part: str


def charge(
    model: Model, *, prompt_tokens: int, completion_tokens: int, byok: str | None, fixed: str | None, free: bool
) -> Charge:
    """
    Price a call.

    Args:
        model: Whose prices hold.
        prompt_tokens: All of them, cached ones too.
        completion_tokens: Those produced so far.
        byok: `fee`, `free` or None, as the switch.
        fixed: The total as a test wants it, which then stands whatever the tokens say.
        free: Served from the response cache.
    """
    if free:
        return Charge(total=fixed or "0", upstream="0", prompt_part="0", completion_part="0")
    prompt, completion = model.prompt * prompt_tokens, model.completion * completion_tokens
    bill = prompt + completion
    total = bill if byok is None else bill * _BYOK_FEE if byok == "fee" else Decimal(0)
    text = fixed if fixed is not None else number_text(total)
    return Charge(
        total=text,
        upstream=text if byok is None else number_text(bill),
        prompt_part=number_text(prompt),
        completion_part=number_text(completion),
    )
