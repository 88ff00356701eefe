"""
Who a call is for: an application says so once, for everything that happens inside a block.

The scope lives in a context variable, so that it follows tasks and does not leak between threads; `carry` takes it into the
threads of an executor. Inner blocks win over outer ones, member by member; tags are merged. Who is named here goes to the
vault alone: the entry gets a random reference, proposed by this process for one person and one month, so that what is left
after an erasure links for a month and no longer.
"""

from __future__ import annotations

import functools
import inspect
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar, cast

from openrouter_audit.capture.json_text import clean
from openrouter_audit.core.entries import Decision

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping
    from decimal import Decimal

MAX_REFERENCES = 10_000
"""People remembered by this process; the vault knows the others, and has the last word anyway."""

MAX_WORD = 1024
"""Characters kept of a user, session, tenant, purpose or tag: all of a call's facts fit into one frame of 256 KiB."""
MAX_TAGS = 64

F = TypeVar("F", bound="Callable[..., Any]")


class Receipt:
    """What the application learns of a call it made; the last four are None until they are known."""

    __slots__ = ("attempt", "call_id", "entry_index", "generation_id", "status", "total_cost")

    def __init__(self, call_id: str, attempt: int) -> None:
        self.call_id = call_id
        self.attempt = attempt
        self.generation_id: str | None = None
        self.status: str | None = None
        self.total_cost: Decimal | None = None
        """Credits (US dollars): the answer's own figure first, then what was billed."""
        self.entry_index: int | None = None
        """Place of the outcome in the log."""

    def __repr__(self) -> str:
        return f"Receipt({self.call_id}, attempt {self.attempt}, {self.status or 'open'})"


class Scope:
    """One block's attribution, merged with those around it."""

    __slots__ = ("decision", "outer", "purpose", "receipts", "session", "tags", "tenant", "user")

    def __init__(self, block: attribution, outer: Scope | None) -> None:
        self.outer = outer
        self.receipts: list[Receipt] = []
        self.user: str | None = block.user or (outer.user if outer else None)
        self.session: str | None = block.session or (outer.session if outer else None)
        self.tenant: str | None = block.tenant or (outer.tenant if outer else None)
        self.purpose: str | None = block.purpose or (outer.purpose if outer else None)
        self.tags: dict[str, str] = {**outer.tags, **block.tags} if outer else block.tags
        self.decision: Decision | None = block.decision or (outer.decision if outer else None)

    def receipt(self, call_id: str, attempt: int) -> Receipt:
        """A receipt for a new call, in the lists of this block and of all around it."""
        receipt = Receipt(call_id, attempt)
        scope: Scope | None = self
        while scope is not None:
            scope.receipts.append(receipt)
            scope = scope.outer
        return receipt


_scope: ContextVar[Scope | None] = ContextVar("openrouter_audit_scope", default=None)


current_scope: Callable[[], Scope | None] = _scope.get
"""The innermost block that is open here; None outside of all."""


class attribution:  # noqa: N801 - used as a function is: `with attribution(user="u")`, `@attribution(purpose="triage")`
    """
    Attribute every call made inside to somebody.

    A context manager that yields a growing list of receipts, and a decorator for functions, coroutines and both kinds of
    generators (a decorated generator has its scope while it runs, and its consumer does not).
    """

    __slots__ = ("decision", "purpose", "session", "tags", "tenant", "user")

    def __init__(
        self,
        *,
        user: str | None = None,
        session: str | None = None,
        tenant: str | None = None,
        purpose: str | None = None,
        tags: Mapping[str, str] = {},
        decision: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            decision: Why the calls go where they go: `rule`, `version` and `arm`, any of them.

        Raises:
            ValueError: The decision has another word than these.
        """
        self.user, self.session = _word(user), _word(session)
        self.tenant, self.purpose = _word(tenant), _word(purpose)
        self.tags = {clean(str(name)): clean(str(value), MAX_WORD) for name, value in [*tags.items()][:MAX_TAGS]}
        self.decision = _decision(decision) if decision else None

    def __enter__(self) -> list[Receipt]:
        scope = Scope(self, _scope.get())
        _scope.set(scope)
        return scope.receipts

    def __exit__(self, *_: object) -> None:
        scope = _scope.get()
        if scope is not None:
            _scope.set(scope.outer)

    def __call__(self, function: F) -> F:
        return _bound(function, lambda: Scope(self, _scope.get()))


def carry(function: F) -> F:
    """
    Take the attribution that is open here along, to wherever the function will run.

    Tasks and `asyncio.to_thread` inherit it by themselves; threads and executors do not. The result may run many times, in
    many threads at once, and after the block has ended: its calls get their receipts into the lists of the blocks open here.
    Functions, coroutines and both kinds of generators.
    """
    scope = _scope.get()
    return _bound(function, lambda: scope)


def _bound(function: F, opened: Callable[[], Scope | None]) -> F:
    """The function, run inside what `opened` gives at each call; where it ran there is afterwards what was there before."""
    wrapper: Any
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return _drive_async(opened(), function(*args, **kwargs))

    elif inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return _drive(opened(), function(*args, **kwargs))

    elif inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            outside = _scope.get()
            _scope.set(opened())
            try:
                return await function(*args, **kwargs)
            finally:
                _scope.set(outside)

    else:

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            outside = _scope.get()
            _scope.set(opened())
            try:
                return function(*args, **kwargs)
            finally:
                _scope.set(outside)

    return cast("F", wrapper)


def _word(value: object) -> str | None:
    return None if value is None else clean(str(value), MAX_WORD)


def _decision(words: Mapping[str, str]) -> Decision:
    """One thing: an inner block's stands alone, for the arm of one rule says nothing beside the name of another."""
    strange = [name for name in words if name not in Decision.__struct_fields__]
    if strange:
        raise ValueError(f"a decision has {', '.join(Decision.__struct_fields__)}; {strange[0]!r} is none of them")
    return Decision(**{name: clean(str(value)) for name, value in words.items() if value is not None})


def _drive(scope: Scope | None, generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Run a generator step by step, each step inside the scope."""
    step: Callable[[], Any] = functools.partial(next, generator)
    try:
        while True:
            outside = _scope.get()
            _scope.set(scope)
            try:
                item = step()
            except StopIteration as stop:
                return stop.value
            finally:
                _scope.set(outside)
            try:
                sent = yield item
                step = functools.partial(generator.send, sent)
            except GeneratorExit:
                raise
            except BaseException as error:
                step = functools.partial(generator.throw, error)
    finally:
        generator.close()


async def _drive_async(scope: Scope | None, generator: AsyncGenerator[Any, Any]) -> AsyncGenerator[Any, Any]:
    step: Callable[[], Any] = generator.__anext__
    try:
        while True:
            outside = _scope.get()
            _scope.set(scope)
            try:
                item = await step()
            except StopAsyncIteration:
                return
            finally:
                _scope.set(outside)
            try:
                sent = yield item
                step = functools.partial(generator.asend, sent)
            except GeneratorExit:
                raise
            except BaseException as error:
                step = functools.partial(generator.athrow, error)
    finally:
        await generator.aclose()


_references: OrderedDict[tuple[str, int, int], str] = OrderedDict()
"""(user, UTC year, month) -> reference. Single dictionary operations only: finalizers may come in between."""


def reference_for(user: str, at_us: int) -> str:
    """The reference this process proposes for a person in the month of `at_us`: 32 hex digits, random."""
    moment = time.gmtime(at_us // 1_000_000)
    key = (user, moment.tm_year, moment.tm_mon)
    reference = _references.get(key)
    if reference is None:
        reference = _references.setdefault(key, os.urandom(16).hex())
        if len(_references) > MAX_REFERENCES:
            try:
                _references.popitem(last=False)
            except KeyError:
                pass
    return reference
