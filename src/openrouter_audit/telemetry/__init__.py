"""
Tells an OpenTelemetry collector of every finished call: one span of a GenAI client and one log record each.

Off unless `[otel] enabled` says so. A follower of the journal, in a thread of its own: what is told is what is committed, and
a receiver that is slow, sick or gone holds up nobody. Nothing that was said is in it, and nobody's name unless asked for.
`conventions` knows the names, `otlp` the SDK (the extra `otel`), `emitter` follows.
"""
