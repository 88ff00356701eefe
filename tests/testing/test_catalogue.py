"""Amounts are exact, and written as JavaScript writes numbers."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrouter_audit.testing.emulator.catalogue import MODELS, charge, find_model, number_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0", "0"), ("0.00", "0"), ("0.000001", "0.000001"), ("0.0000001", "1e-7"), ("0.00000012", "1.2e-7"), ("0.50", "0.5"),
        ("12", "12"), ("1200", "1200"), ("12.340", "12.34"), ("1E+20", "100000000000000000000"), ("1E+21", "1e+21"), ("1.5E+22", "1.5e+22"),
    ],
)  # fmt: skip
def test_known_texts(value, text):
    """
    Known answers of `String(number)`.
    """
    assert text == number_text(Decimal(value))


@given(st.decimals(min_value=0, max_value=10**24, allow_nan=False, allow_infinity=False, places=12))
def test_text_is_the_same_number(value):
    assert value == Decimal(number_text(value))


@given(st.sampled_from(sorted(MODELS)), st.integers(0, 10**7), st.integers(0, 10**6))
def test_parts_sum_to_the_whole_exactly(slug, prompt, completion):
    cost = charge(MODELS[slug], prompt_tokens=prompt, completion_tokens=completion, byok=None, fixed=None, free=False)
    assert Decimal(cost.total) == Decimal(cost.prompt_part) + Decimal(cost.completion_part)
    assert cost.total == cost.upstream


def test_models_that_are_not_listed_are_served():
    """
    A variant costs what its model costs, a free one nothing, a stranger something.
    """
    assert MODELS["openai/gpt-4.1-mini"] == find_model("openai/gpt-4.1-mini:nitro")
    assert (0, 0) == (find_model("acme/m:free").prompt, find_model("openai/gpt-4.1-mini:free").completion)
    assert ("acme/m", "Acme") == (find_model("acme/m").permaslug, find_model("acme/m").provider)
    assert find_model("acme/m").completion > 0
