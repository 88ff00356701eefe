"""An OTLP/HTTP receiver that decodes what it gets, with switches that make it sick."""

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Receiver:
    """`spans` and `records` of all requests it has taken, as (resource, scope, message); `status` is what it answers."""

    def __init__(self):
        self.spans, self.records, self.requests = [], [], 0
        self.status = {"/v1/traces": 200, "/v1/logs": 200}
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.asked = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.requests += 1
                receiver.asked.set()
                receiver.goes_on.wait(60)
                status = receiver.status[self.path]
                answer = receiver._take(self.path, body) if status == 200 else b""
                try:
                    self.send_response(status)
                    self.send_header("content-type", "application/x-protobuf")
                    self.send_header("content-length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)
                except OSError:
                    pass  # the client has given up

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.goes_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def _take(self, path, body):
        if path == "/v1/traces":
            for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in group.scope_spans:
                    self.spans += [(group.resource, scope.scope, span) for span in scope.spans]
            return ExportTraceServiceResponse().SerializeToString()
        for group in ExportLogsServiceRequest.FromString(body).resource_logs:
            for scope in group.scope_logs:
                self.records += [(group.resource, scope.scope, record) for record in scope.log_records]
        return ExportLogsServiceResponse().SerializeToString()


def attributes(message):
    """Attributes of a span, a record or a resource as plain values."""
    return {each.key: plain(each.value) for each in message.attributes}


def plain(value):
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(each) for each in value.array_value.values]
    return getattr(value, kind)
