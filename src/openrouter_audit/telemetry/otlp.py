"""
The only module that knows the OpenTelemetry SDK: calls become a span and a log record each, and go out by OTLP over HTTP.

Where to is said by the standard environment: `OTEL_EXPORTER_OTLP_ENDPOINT`, `…_HEADERS`, `…_TIMEOUT` and their forms for
traces and logs, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`; `OTEL_TRACES_EXPORTER=none` or `OTEL_LOGS_EXPORTER=none` leaves
one of the two out. The application's own providers are not touched. Ids follow from the call's, so what is sent twice can be
told by its receiver: the span's is the beginning of the call id, and without a span around it the trace's is the group's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, Context, attach, detach, set_value
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from openrouter_audit._version import __version__
from openrouter_audit.errors import TelemetryUnavailable
from openrouter_audit.telemetry.conventions import EVENT_NAME, Call, Schema, attributes_of

_SCOPE = "openrouter-audit"
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_SEVERITIES = {
    "success": SeverityNumber.INFO,
    "error": SeverityNumber.ERROR,
    "timeout": SeverityNumber.ERROR,
}
"""The others ended by somebody's choice, or nobody knows how: WARN."""


class OtlpExport:
    """Both exporters. One thread uses an instance."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._resource = Resource.create()
        self._scope = InstrumentationScope(_SCOPE, __version__)
        self._ids = _Ids()
        self._ended = _Ended()
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=self._resource, id_generator=self._ids, shutdown_on_exit=False
        )
        self._provider.add_span_processor(self._ended)
        self._tracer = self._provider.get_tracer(_SCOPE, __version__)
        self._spans = None if _is_none("OTEL_TRACES_EXPORTER") else OTLPSpanExporter()
        self._logs = None if _is_none("OTEL_LOGS_EXPORTER") else OTLPLogExporter()
        self._spans_sent = -1
        """Index of the last call whose span was taken: where only the log records were refused, only these go again."""

    def send(self, calls: Sequence[Call]) -> None:
        """
        Return when the receiver has taken them.

        Raises:
            TelemetryUnavailable: It has not, or perhaps it has: they are to be sent again.
        """
        token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, value=True))  # our own requests are nobody's calls
        try:
            self._send(calls)
        finally:
            detach(token)

    def _send(self, calls: Sequence[Call]) -> None:
        records = [self._told(call) for call in calls]
        spans = self._ended.take()
        if not spans:
            return  # `OTEL_SDK_DISABLED=true`
        last = calls[-1].index
        if self._spans is not None and last != self._spans_sent:
            if self._spans.export(spans) is not SpanExportResult.SUCCESS:
                raise TelemetryUnavailable("the OpenTelemetry receiver takes no spans")
            self._spans_sent = last
        if self._logs is not None and self._logs.export(records) is not LogRecordExportResult.SUCCESS:
            raise TelemetryUnavailable("the OpenTelemetry receiver takes no log records")

    def _told(self, call: Call) -> ReadableLogRecord:
        attributes = attributes_of(call, self._schema)
        parent = Context()
        if call.trace_id and call.parent_id:
            around = SpanContext(int(call.trace_id, 16), int(call.parent_id, 16), is_remote=True, trace_flags=_SAMPLED)
            parent = trace.set_span_in_context(NonRecordingSpan(around), parent)
        self._ids.next = int(call.trace_id or call.intent.group or call.outcome.id, 16), int(call.outcome.id[:16], 16)
        span = self._tracer.start_span(
            call.name,
            context=parent,
            kind=SpanKind.CLIENT,
            attributes=attributes,
            start_time=call.intent.at_us * 1000,
        )
        if call.failure is not None:
            span.set_status(Status(StatusCode.ERROR))
        span.end(end_time=call.ended_us * 1000)
        severity = _SEVERITIES.get(call.outcome.status, SeverityNumber.WARN)
        record = LogRecord(
            timestamp=call.intent.at_us * 1000,
            observed_timestamp=time.time_ns(),
            context=trace.set_span_in_context(span, Context()),
            severity_number=severity,
            severity_text=severity.name,
            attributes={**attributes, "duration_ms": (call.ended_us - call.intent.at_us) / 1000},
            event_name=EVENT_NAME,
        )
        return ReadableLogRecord(record, self._resource, self._scope)

    def close(self) -> None:
        for exporter in (self._spans, self._logs):
            if exporter is not None:
                exporter.shutdown()  # type: ignore[no-untyped-call]  # the SDK's own has no types
        self._provider.shutdown()


class _Ids(IdGenerator):
    """Gives the ids it was told."""

    next: tuple[int, int] = (0, 0)

    def generate_trace_id(self) -> int:
        return self.next[0] or 1  # zero is no id

    def generate_span_id(self) -> int:
        return self.next[1] or 1


class _Ended(SpanProcessor):
    """Holds spans until they are sent."""

    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self._spans.append(span)

    def take(self) -> list[ReadableSpan]:
        spans, self._spans = self._spans, []
        return spans


def _is_none(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() == "none"
