"""What a worker asks of a schema registry, over real HTTP: schemas by id. No registry itself can be installed here."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class RegistryServer:
    """Serves `schemas` (id to Avro schema) on a loopback port. answer: (status, body) for all requests instead."""

    def __init__(self, schemas: dict[int, Any], port: int = 0) -> None:
        self.schemas = schemas
        self.answer: tuple[int, bytes] | None = None
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                status, body = outer.answer or outer.say(self.path)
                self.send_response(status)
                self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def say(self, path: str) -> tuple[int, bytes]:
        number = int(path.rsplit("/", 1)[1])
        if path != f"/schemas/ids/{number}" or number not in self.schemas:
            return 404, b'{"error_code": 40403, "message": "Schema not found"}'
        return 200, json.dumps({"schema": json.dumps(self.schemas[number])}).encode()

    def __enter__(self) -> RegistryServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
