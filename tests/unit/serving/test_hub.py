"""A model's folder is uploaded to a stand-in of the hub's API on loopback."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ...forked import Forked

FILES = {
    "config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 40,
    "README.md": b"---\nlibrary_name: transformers\n---\n# Mine\n",
    "onnx/model.onnx": b"graph",
}


class Hub(BaseHTTPRequestHandler):
    """Makes repositories and takes commits whose files come within the request."""

    refuses: ClassVar[bool] = False
    calls: ClassVar[list[tuple[str, str | None]]] = []
    made: ClassVar[list[dict[str, Any]]] = []
    files: ClassVar[dict[str, bytes]] = {}

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Hub.calls.append((self.path, self.headers["Authorization"]))
        here = f"http://127.0.0.1:{self.server.server_address[1]}"
        if Hub.refuses:
            self.answer(401, {"error": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            Hub.made.append(json.loads(body))
            self.answer(200, {"url": f"{here}/me/small", "name": "me/small"})
        elif self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif self.path == "/api/models/me/small/preupload/main":
            asked = json.loads(body)["files"]
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in asked
            ]
            self.answer(200, {"files": files})
        elif self.path == "/api/models/me/small/commit/main":
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    Hub.files[value["path"]] = base64.b64decode(value["content"])
            found = {"commitOid": "0" * 40, "commitUrl": f"{here}/me/small/commit/{'0' * 40}"}
            self.answer(200, {"success": True, "hookOutput": "", **found})
        else:
            self.answer(404, {"error": self.path})

    def do_GET(self) -> None:
        Hub.calls.append((self.path, self.headers["Authorization"]))
        self.answer(200, {"id": "me/small", "sha": "0" * 40, "siblings": []})

    def answer(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def hub(refuses: bool = False) -> Iterator[str]:
    Hub.refuses, Hub.calls, Hub.made, Hub.files = refuses, [], [], {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        file = tmp_path / "run/student" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (tmp_path / "run/student/.hidden").write_bytes(b"mine")
    return tmp_path / "run"


def pushed(folder: Path, endpoint: str, *options: str) -> subprocess.CompletedProcess[str]:
    """`layermix export FOLDER --push_to_hub me/small`, with the stand-in as the hub."""
    variables = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "hf_secret",
        "HF_HOME": str(folder.parent / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, "-m", "layermix", "export", str(folder), "--push_to_hub", "me/small"]
    return subprocess.run([*command, *options], capture_output=True, text=True, env=variables)


AT = """
import sys
from huggingface_hub import constants
constants.ENDPOINT, constants.HF_HUB_OFFLINE = sys.argv[1], False
from layermix.cli import main
main(["export", sys.argv[2], "--push_to_hub", "me/small"])
"""


def refused(folder: Path, endpoint: str) -> tuple[int | None, str]:
    """The same, forked: exit code and what it said."""
    variables = os.environ | {"HF_TOKEN": "hf_secret"}
    words = [endpoint, str(folder)]
    process = Forked(words, program=AT, stderr=subprocess.PIPE, variables=variables)
    _, said = process.communicate()
    return process.returncode, said.decode()


def test_the_folder_is_uploaded_as_one_commit(folder: Path) -> None:
    with hub() as endpoint:
        done = pushed(folder, endpoint, "--private")
    assert done.returncode == 0, done.stderr
    assert Hub.files == FILES
    assert Hub.made[0]["name"] == "small"
    assert Hub.made[0]["organization"] == "me"
    assert Hub.made[0]["visibility"] == "private"
    assert sum("/commit/" in path for path, _ in Hub.calls) == 1
    tokens = {token for path, token in Hub.calls if "/commit/" in path or "create" in path}
    assert tokens == {"Bearer hf_secret"}
    assert f"Uploaded to {endpoint}/me/small" in done.stdout


def test_a_hub_that_refuses(folder: Path) -> None:
    with hub(refuses=True) as endpoint:
        code, said = refused(folder, endpoint)
    assert code == 1
    assert "me/small: could not be pushed to the hub (" in said
    assert "the token (`hf auth login`, or $HF_TOKEN)" in said
    assert "hf_secret" not in said
    assert "Traceback" not in said


def test_a_hub_that_is_not_there(folder: Path) -> None:
    with hub() as endpoint:
        pass
    code, said = refused(folder, endpoint)
    assert code == 1
    assert "`layermix export MODEL --push_to_hub me/small` tries again" in said
