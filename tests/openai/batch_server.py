"""The Batch API as a small local server: files, batches and results; the chat completions come from a real server."""

from __future__ import annotations

import json
import threading
import time
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.openai.servers import forward


class BatchRequest(BaseHTTPRequestHandler):
    """One request at the batch server."""

    server: BatchServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/files":
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            parts = BytesParser().parsebytes(head + body).get_payload()
            fields = {part.get_param("name", header="content-disposition"): part for part in parts}
            assert fields["purpose"].get_payload() == "batch"
            self.answer(self.server.add_file(fields["file"].get_payload(decode=True)))
        elif self.path == "/v1/batches":
            batch = self.server.add_batch(json.loads(body), self.headers["Authorization"])
            if self.server.drops_next_creation:
                self.server.drops_next_creation = False
                self.close_connection = True
                return
            self.answer(batch)
        else:  # an ordinary request
            status, reply = forward(self.server.upstream, self.path, body, self.headers["Authorization"])
            self.send(reply, status)

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")[1:]
        if parts == ["batches"]:
            self.answer({"object": "list", "data": list(self.server.batches.values()), "has_more": False})
        elif parts[0] == "batches":
            self.answer(self.server.look_at(parts[1]))
        else:
            self.send(self.server.files[parts[1]])

    def answer(self, values: dict[str, Any]) -> None:
        self.send(json.dumps(values).encode())

    def send(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class BatchServer(ThreadingHTTPServer):
    """Batches are worked off when looked at, unless `holds`; lines with `fails` in them end as errors."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), BatchRequest)
        self.upstream = upstream
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.holds = False
        self.drops_next_creation = False
        self.fails: str | None = None
        self._keys: dict[str, str] = {}
        self._lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def add_file(self, content: bytes) -> dict[str, Any]:
        name = f"file-{len(self.files)}"
        self.files[name] = content
        about = {"id": name, "object": "file", "bytes": len(content), "created_at": int(time.time())}
        return {**about, "filename": "mjd.jsonl", "purpose": "batch", "status": "processed"}

    def add_batch(self, asked: dict[str, Any], key: str) -> dict[str, Any]:
        name = f"batch-{len(self.batches)}"
        about = {"id": name, "object": "batch", "status": "in_progress", "created_at": int(time.time())}
        self.batches[name] = {**asked, **about, "output_file_id": None, "error_file_id": None}
        self._keys[name] = key
        return self.batches[name]

    def look_at(self, name: str) -> dict[str, Any]:
        with self._lock:
            batch = self.batches[name]
            if batch["status"] == "in_progress" and not self.holds:
                self._work_off(batch)
            return batch

    def _work_off(self, batch: dict[str, Any]) -> None:
        done: list[str] = []
        failed: list[str] = []
        for line in self.files[batch["input_file_id"]].splitlines():
            asked = json.loads(line)
            about = {"id": f"r-{len(done)}", "custom_id": asked["custom_id"]}
            if self.fails and self.fails in line.decode():
                failed.append({**about, "response": None, "error": {"code": "x", "message": "no luck"}})
                continue
            body = json.dumps(asked["body"]).encode()
            status, reply = forward(self.upstream, asked["url"], body, self._keys[batch["id"]])
            response = {"status_code": status, "body": json.loads(reply)}
            done.append({**about, "response": response, "error": None})
        for key, lines in (("output_file_id", done), ("error_file_id", failed)):
            if lines:
                batch[key] = self.add_file("\n".join(map(json.dumps, lines)).encode())["id"]
        batch["status"] = "completed"
