"""An endpoint for the `judge` reward in a process of its own, which grades every answer 7 of 10 and reads none."""

import json
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection

REPLY = json.dumps({"choices": [{"message": {"content": json.dumps({"reason": "so", "grade": 7})}}]}).encode()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(REPLY)

    def log_message(self, format: str, *args: object) -> None:
        pass


def serve(port: Connection) -> None:
    """Send the port, then serve until the process is ended."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        port.send(server.server_address[1])
        server.serve_forever()


@contextmanager
def stub_judge() -> Iterator[str]:
    """Its address, for the reward's setting `url`."""
    listens, tells = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=serve, args=(tells,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{listens.recv()}/v1"
    finally:
        process.terminate()
        process.join()
