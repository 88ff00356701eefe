"""
The reports (C4), as pure functions from figures of calls to rows.

Rules that hold for all of them. Calls still `open` are in no report: the store leaves them out. Money is added as Decimal
with every digit, and a sum is what is known; `unknown_cost_requests` beside it says for how many calls the price is
missing. A duplicate counts as a request, and its cost and tokens nowhere: that generation was billed once (C10).
`upstream_cost` is in no sum (C7). Percentages and means are exact until they are rounded, half up. Where there is
nothing to divide by, the answer is null.

`--model` keeps the calls that asked for the model or were served by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Context, Decimal, Inexact
from typing import Any, Protocol

from openrouter_audit.errors import ConfigError
from openrouter_audit.reports.period import Period, day_finder

# Money of an entry has at most 64 digits and a three-digit exponent; with this precision no sum of them is ever rounded.
_EXACT = Context(prec=5_000, Emin=-10_000, Emax=10_000, traps=[Inexact])
_TENTH = Decimal("0.1")
_THOUSANDTH = Decimal("0.001")
_ROUNDING = Context(prec=60, rounding=ROUND_HALF_UP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An answer, ready to be shown."""

    name: str
    period: Period
    columns: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """The shape of C4."""
        return {
            "report": self.name,
            "since": self.period.since,
            "until": self.period.until,
            "tz": self.period.zone.key,
            "rows": list(self.rows),
        }


class CallFigures(Protocol):
    """What questions need of a store of calls."""

    def figures(
        self, columns: Sequence[str], *, since: str | None, until: str | None, model: str | None
    ) -> Iterator[tuple[Any, ...]]:
        """These columns of every call that has ended."""
        ...


FindUsers = Callable[[Sequence[str]], Mapping[str, str]]
"""From subject references to user ids; erased and unknown ones are left out."""


@dataclass(slots=True)
class _Money:
    """A sum that is growing."""

    requests: int = 0
    cost: Decimal = field(default_factory=lambda: Decimal(0))
    unknown: int = 0

    def add(self, total_cost: str | None, cost_state: str, duplicate_of: str | None) -> None:
        self.requests += 1
        if total_cost is not None:
            self.cost = _EXACT.add(self.cost, Decimal(total_cost))
        elif duplicate_of is None and cost_state in {"provisional", "unresolved"}:
            self.unknown += 1

    def merge(self, other: _Money) -> None:
        self.requests += other.requests
        self.cost = _EXACT.add(self.cost, other.cost)
        self.unknown += other.unknown


_MONEY_COLUMNS = ("total_cost", "cost_state", "duplicate_of")


def daily_cost(figures: Iterable[tuple[Any, ...]], day_of: Callable[[str], str]) -> list[dict[str, Any]]:
    """Cost by day and model; newest day first, then the most expensive model."""
    groups: dict[tuple[str, str | None], _Money] = {}
    for timestamp, model, *money in figures:
        group = (day_of(timestamp), model)
        if group not in groups:
            groups[group] = _Money()
        groups[group].add(*money)
    ordered = sorted(
        groups.items(), key=lambda item: (item[1].cost.copy_negate(), item[0][1] is None, item[0][1] or "")
    )
    ordered.sort(key=lambda item: item[0][0], reverse=True)
    return [
        {
            "day": day,
            "model_used": model,
            "requests": money.requests,
            "cost": money_text(money.cost),
            "unknown_cost_requests": money.unknown,
        }
        for (day, model), money in ordered
    ]


def errors(figures: Iterable[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Error rate by the model that was asked for; most errors first. Only status `error` is one."""
    groups: dict[str | None, list[int]] = {}
    for model, status in figures:
        counts = groups.setdefault(model, [0, 0])
        counts[0] += 1
        counts[1] += status == "error"
    ordered = sorted(groups.items(), key=lambda item: (-item[1][1], -item[1][0], item[0] is None, item[0] or ""))
    return [
        {"model_requested": model, "total": total, "errors": failed, "error_pct": percent_text(failed, total)}
        for model, (total, failed) in ordered
    ]


def top_spenders(figures: Iterable[tuple[Any, ...]], find_users: FindUsers) -> list[dict[str, Any]]:
    """
    Cost by person, the greatest spender first.

    A person has another reference every month; they become one row. A reference whose name was erased stands for itself,
    and calls that nobody was named for are the row of null.
    """
    references: dict[str | None, _Money] = {}
    for reference, *money in figures:
        if reference not in references:
            references[reference] = _Money()
        references[reference].add(*money)
    users = find_users([reference for reference in references if reference is not None])
    people: dict[str | None, _Money] = {}
    for reference, sums in references.items():
        person = None if reference is None else users.get(reference, reference)
        people.setdefault(person, _Money()).merge(sums)
    ordered = sorted(
        people.items(), key=lambda item: (item[1].cost.copy_negate(), -item[1].requests, item[0] is None, item[0] or "")
    )
    return [
        {
            "user_id": person,
            "requests": money.requests,
            "total_cost": money_text(money.cost),
            "unknown_cost_requests": money.unknown,
        }
        for person, money in ordered
    ]


def summary(figures: Iterable[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Everything in one row. The mean latency is over the calls that have one, whatever became of them."""
    money = _Money()
    success = prompt_tokens = completion_tokens = timed = latency_us = 0
    for status, prompt, completion, latency, *price in figures:
        money.add(*price)
        success += status == "success"
        if price[2] is None:
            prompt_tokens += prompt or 0
            completion_tokens += completion or 0
        if latency is not None:
            timed += 1
            latency_us += int(latency.replace(".", ""))
    return [
        {
            "calls": money.requests,
            "success": success,
            "success_pct": percent_text(success, money.requests),
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "mean_latency_ms": _rounded(latency_us, timed * 1000, _THOUSANDTH) if timed else None,
            "cost": money_text(money.cost),
            "unknown_cost_requests": money.unknown,
        }
    ]


def money_text(amount: Decimal) -> str:
    """Every digit, and no exponent: `0.0000001`."""
    return format(amount, "f")


def percent_text(part: int, whole: int) -> str | None:
    """`33.3`, rounded half up; null of nothing."""
    return _rounded(100 * part, whole, _TENTH) if whole else None


def _rounded(numerator: int, denominator: int, step: Decimal) -> str:
    # In whole numbers, because a quotient that is rounded twice can end on the wrong side of a half.
    steps = int(1 / step)
    doubled = (2 * numerator * steps + denominator) // (2 * denominator)
    return format((Decimal(doubled) * step).quantize(step, context=_ROUNDING), "f")


QUESTIONS = {
    "daily-cost": ("day", "model_used", "requests", "cost", "unknown_cost_requests"),
    "errors": ("model_requested", "total", "errors", "error_pct"),
    "top-spenders": ("user_id", "requests", "total_cost", "unknown_cost_requests"),
    "summary": (
        "calls",
        "success",
        "success_pct",
        "prompt_tokens",
        "completion_tokens",
        "mean_latency_ms",
        "cost",
        "unknown_cost_requests",
    ),
}
"""The questions by their name on the command line, with the columns of their answers."""
DEFAULT_SINCE = {"errors": "-24h"}
"""Where no beginning is given; the others look at everything."""
DEFAULT_LIMIT = {"top-spenders": 10}
"""Rows where no limit is given; the others show all, because a sum over rows that were cut off would be wrong."""


def ask(
    name: str,
    calls: CallFigures,
    *,
    period: Period,
    find_users: FindUsers,
    limit: int | None = None,
    model: str | None = None,
) -> Report:
    """
    Answer one of `QUESTIONS`.

    Args:
        limit: Rows at most; None for the question's own limit.

    Raises:
        ConfigError: There is no such question, or the limit is below 1.
    """
    if name not in QUESTIONS:
        raise ConfigError(f"{name!r} is no report; there are {', '.join(QUESTIONS)}")
    if limit is not None and limit < 1:
        raise ConfigError("the limit is at least 1")

    def figures(*columns: str) -> Iterator[tuple[Any, ...]]:
        return calls.figures(columns, since=period.since, until=period.until, model=model)

    if name == "daily-cost":
        rows = daily_cost(figures("timestamp", "model_used", *_MONEY_COLUMNS), day_finder(period.zone))
    elif name == "errors":
        rows = errors(figures("model_requested", "status"))
    elif name == "top-spenders":
        rows = top_spenders(figures("subject_ref", *_MONEY_COLUMNS), find_users)
    else:
        rows = summary(figures("status", "prompt_tokens", "completion_tokens", "latency_ms", *_MONEY_COLUMNS))
    kept = DEFAULT_LIMIT.get(name) if limit is None else limit
    return Report(name=name, period=period, columns=QUESTIONS[name], rows=rows[:kept])
