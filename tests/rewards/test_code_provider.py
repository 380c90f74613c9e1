"""A provider of the code reward named in a rewards.yaml, against an HTTP service on this machine."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from omnirl_core.rewards import load_rewards
from omnirl_core.rewards.load import RewardsError

pytestmark = pytest.mark.timeout(60)  # the watchdog
CLIENT = """
import json, urllib.request
from omnirl_core.rewards.code.sandbox import Outcome, SandboxError

class Remote:
    def run(self, source, language, stdins, limits):
        for stdin in stdins:
            asked = {"source": source, "language": language, "stdin": stdin, "seconds": limits.cpu_s}
            request = urllib.request.Request("ADDRESS", json.dumps(asked).encode())
            try:
                with urllib.request.urlopen(request, timeout=20) as reply:
                    told = json.load(reply)
            except OSError as error:
                raise SandboxError(f"the service does not answer: {error}") from error
            yield Outcome(told["status"], told["stdout"])

class NoRun:
    pass
"""
TESTS = {"tests": [{"stdin": f"{n}\n", "stdout": f"{2 * n}\n"} for n in (1, 4)]}
COMPLETION = "<think>t</think><answer>{}</answer>"


class Service(BaseHTTPRequestHandler):
    """Runs the test's own programs, as a remote sandbox would."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        command = [sys.executable, "-I", "-S", "-c", asked["source"]]
        done = subprocess.run(command, input=asked["stdin"], capture_output=True, text=True, timeout=20)
        reply = {"status": "error" if done.returncode else "ok", "stdout": done.stdout}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(reply).encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def yaml_file(tmp_path, monkeypatch):
    """Writes a rewards.yaml whose provider is a client of a service that runs until the test ends."""
    service = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    module = f"remote_{service.server_port}"
    address = f"http://127.0.0.1:{service.server_port}/"
    (tmp_path / f"{module}.py").write_text(CLIENT.replace("ADDRESS", address))
    monkeypatch.syspath_prepend(tmp_path)

    def write(provider, more=""):
        path = tmp_path / "rewards.yaml"
        name = provider.replace("MODULE", module)
        path.write_text(f"rewards:\n- name: code\n  settings: {{provider: '{name}'{more}}}\n")
        return path

    yield write
    service.shutdown()
    service.server_close()


@pytest.mark.parametrize("more", ["", ", workers: 3"])
def test_a_yaml_names_a_provider_that_judges_elsewhere(yaml_file, more):
    (reward,) = load_rewards(yaml_file("MODULE:Remote", more))
    programs = ["print(2 * int(input()))", "print(2)", "1 / 0", "print(int(input()) * 2)"]
    scores = reward(completions=[COMPLETION.format(text) for text in programs], solution=[TESTS] * 4)
    assert scores == [1.0, 0.5, 0.0, 1.0]


@pytest.mark.parametrize(
    ("provider", "message"),
    [
        ("MODULE:NoRun", "has no method run"),
        ("MODULE:Nothing", "is not found"),
        ("no_such_module:Remote", "is not found"),
        ("not a name", "is not found"),
    ],
)
def test_a_wrong_provider_is_a_fault_with_its_line(yaml_file, provider, message):
    with pytest.raises(RewardsError, match=message) as caught:
        load_rewards(yaml_file(provider))
    assert "rewards.yaml:3: code: " in str(caught.value)
