"""The tools that an answer calls, the same for every interface: names and arguments, before anybody's JSON is made of them."""

from typing import Any, NamedTuple

from openrouter_audit.testing.emulator.plan import Plan

_NAME = "find_invoice"
_ARGUMENTS = '{"customer":"8841"}'


class ToolCall(NamedTuple):
    """One call of a tool."""

    tail: str
    """Twenty letters and digits, another for each call; interfaces put their own prefix before it."""
    name: str
    arguments: str
    """JSON text."""

    @property
    def fragments(self) -> list[str]:
        """The arguments as a stream brings them: in two parts, cut inside a word."""
        return [part for part in (self.arguments[:9], self.arguments[9:]) if part]


def calls_tools(plan: Plan) -> bool:
    """Whether the answer calls tools instead of speaking."""
    return plan.behaviour.tools is not None or plan.finish_reason == "tool_calls"


def tool_calls(plan: Plan) -> list[ToolCall]:
    """The calls asked for by the switch `tools`, or one; what it leaves open is taken from the tools that were offered, in turn."""
    asked = plan.behaviour.tools or ((None, None),)
    offered = _offered(plan.request.get("tools")) or [_NAME]
    own = plan.generation_id[-20:]
    return [
        ToolCall(
            tail=own if not i else f"{own[: -len(str(i)) - 1]}x{i}",
            name=name or offered[i % len(offered)],
            arguments=_ARGUMENTS if arguments is None else arguments,
        )
        for i, (name, arguments) in enumerate(asked)
    ]


def _offered(tools: Any) -> list[str]:
    """Names of the tools in a request: beside the type, or (chat) one level further in."""
    names = []
    for tool in tools if isinstance(tools, list) else []:
        if isinstance(tool, dict):
            inner = tool["function"] if isinstance(tool.get("function"), dict) else tool
            if inner.get("name"):
                names.append(str(inner["name"]))
    return names
