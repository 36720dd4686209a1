"""Stands in for docker, kind and kubectl: records its arguments, and prints what they would."""

import http.server
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(sys.argv[0]).parent
CREATED, LOG, FAILS = HERE / "created", HERE / "log", HERE / "fails"


def serve(port: int) -> None:
    """Serve an empty page for a minute."""
    signal.alarm(60)

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    http.server.HTTPServer(("127.0.0.1", port), Page).serve_forever()


def kind(*words: str) -> str:
    match words:
        case ("delete", "cluster", *_):
            if CREATED.exists():
                os.kill(int(CREATED.read_text()), signal.SIGKILL)
                CREATED.unlink()
        case ("create", "cluster", "--config", config, "--kubeconfig", kubeconfig):
            port = re.search(r"hostPort: (\d+)", Path(config).read_text())[1]
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            page = subprocess.Popen([sys.executable, sys.argv[0], "serve", port], **quiet)
            CREATED.write_text(str(page.pid))
            Path(kubeconfig).write_text("apiVersion: v1\n")
    return ""


def kubectl(*words: str) -> str:
    if not CREATED.exists():
        sys.exit("The connection to the server was refused - did you specify the right host?")
    match words[2:]:
        case ("get", "--raw=/readyz?verbose"):
            return "readyz check passed"
        case ("get", "sa", *_):
            return "default"
        case ("get", "job", *_):
            done = {"conditions": [{"type": "Complete", "status": "True"}], "succeeded": 1}
            return json.dumps({"status": done})
        case ("get", "pods", *_):
            pod = {"name": "admin-1", "namespace": "voting"}
            containers = {"containers": [{"name": "admin"}]}
            return json.dumps({"items": [{"metadata": pod, "spec": containers}]})
    return ""


def main() -> None:
    name = Path(sys.argv[0]).name
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
        return
    command = " ".join([name, *sys.argv[1:]])
    with LOG.open("a") as log:
        log.write(f"{command}\n")
    if FAILS.exists() and command.startswith(FAILS.read_text()):
        sys.exit("ERROR: no space left on device")
    run = {"kind": kind, "kubectl": kubectl}.get(name, lambda *_: "29.0")
    sys.stdout.write(run(*sys.argv[1:]))


main()
