"""An exported student answers in a browser, with transformers.js, as it does in Python.

The tiny model made here is replaced by another exported folder (with its weights) that
$LAYERMIX_EXPORTED names, and by the rows (JSONL: text, perhaps text_pair) of $LAYERMIX_ROWS.
$LAYERMIX_TRANSFORMERS_JS names a folder that keeps what is fetched with npm.
"""

import csv
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from playwright.sync_api import sync_playwright
from scipy.special import softmax
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    BertTokenizer,
)

from layermix.config import DataConfig
from layermix.models.encoder import longest_input
from layermix.serving.export import export

TRANSFORMERS_JS = "4.3.1"
ROWS, BATCH = 200, 10
NEAR = 1e-3

SAME_INT8 = 0.98
"""Share of rows with the same int8 answer; the others are ties as near as the rounding."""

NPM = shutil.which("npm")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = ("--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
NEEDED = re.compile(r"package/(package\.json|dist/(transformers\.min\.js|ort-wasm.+\.(mjs|wasm)))")
NO_NETWORK = re.compile(r"code E(NOTFOUND|AI_|CONN|TIMEDOUT|NETUNREACH|HOSTUNREACH|RR_SOCKET)")
PAGE = """<!doctype html><meta charset="utf-8">
<script type="module">
  import { AutoModelForSequenceClassification, AutoTokenizer, env, softmax }
    from "/transformers/transformers.min.js";
  env.allowRemoteModels = false;
  env.allowLocalModels = true;
  env.localModelPath = "/models/";
  env.backends.onnx.wasm.wasmPaths = `${location.origin}/onnxruntime/`;
  window.answer = async ([dtype, batches]) => {
    const tokenizer = await AutoTokenizer.from_pretrained("exported");
    const model = await AutoModelForSequenceClassification.from_pretrained(
      "exported", { dtype, device: "wasm" });
    const probabilities = [];
    for (const { text, text_pair } of batches) {
      const options = { text_pair: text_pair ?? null, padding: true, truncation: true };
      const { logits } = await model(tokenizer(text, options));
      probabilities.push(...logits.tolist().map((row) => [...softmax(row)]));
    }
    const names = probabilities[0].map((_, index) =>
      model.config.id2label ? model.config.id2label[index] : `LABEL_${index}`);
    return { probabilities, names };
  };
  document.documentElement.dataset.ready = "yes";
</script>
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NPM is None, reason="no npm on this machine"),
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium on this machine (Debian's package is called chromium)"
    ),
]
Rows = list[dict[str, str]]
Batch = dict[str, list[str]]
"""Columns `text` and, for pairs, `text_pair`, as tokenizers take them."""


@dataclass(frozen=True)
class Answers:
    """Probabilities, (N, C), and the names of the classes."""

    probabilities: NDArray[np.floating[Any]]
    names: list[str]

    @property
    def labels(self) -> list[str]:
        return [self.names[index] for index in self.probabilities.argmax(-1)]

    def furthest(self, other: "Answers") -> float:
        """The largest difference of a probability."""
        return float(np.abs(self.probabilities - other.probabilities).max())


def fetch(package: str, version: str, cache: Path) -> Path:
    """The `package` folder of what npm has under this name; skips without a network."""
    place = cache / f"{package.rpartition('/')[2]}-{version}"
    if place.exists():
        return place / "package"
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        command = [str(NPM), "pack", f"{package}@{version}", "--pack-destination", scratch]
        npm = subprocess.run(
            [*command, "--fetch-retries=1", "--fetch-retry-mintimeout=1000"],
            cwd=scratch,
            capture_output=True,
            text=True,
        )
        if lost := NO_NETWORK.search(npm.stderr):
            pytest.skip(f"npm cannot fetch {package} {version}: {lost.string.splitlines()[0]}")
        assert npm.returncode == 0, npm.stderr
        with tarfile.open(next(Path(scratch).glob("*.tgz"))) as archive:
            members = [one for one in archive if NEEDED.fullmatch(one.name)]
            archive.extractall(Path(scratch) / "whole", members, filter="data")
        (Path(scratch) / "whole").rename(place)
    return place / "package"


def made_up_rows(count: int) -> Rows:
    """Texts and pairs by turns: letters that the tiny model knows, and others."""
    draw = random.Random(7)
    words = [*"abcdefghijklmnopqrstuvwxyz", "Q", "é", "狐", "🦊", "b-c", "[MASK]"]

    def line() -> str:
        return draw.choice(("  ", " ")).join(draw.choices(words, k=draw.randint(1, 9)))

    return [
        {"text": line(), "text_pair": line()} if number % 2 else {"text": line()}
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def folder(
    bert: Callable[..., BertForSequenceClassification],
    tokenizer: BertTokenizer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    if "LAYERMIX_EXPORTED" in os.environ:
        return Path(os.environ["LAYERMIX_EXPORTED"]).absolute()
    place = tmp_path_factory.mktemp("exported")
    made = place / "model"
    model = bert(2, seed=3)
    model.config.id2label = {0: "no", 1: "yes"}
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)
    with (place / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in made_up_rows(60)]
        labelled = [(text, number % 2) for number, text in enumerate(texts)]
        csv.writer(file).writerows([("text", "label"), *labelled])
    export(str(made), DataConfig(path=str(place / "rows.csv")), int8=True, max_drop=100)
    return made


@pytest.fixture(scope="module")
def batches(folder: Path) -> list[Batch]:
    """Rows that fit into the model, because transformers.js cuts longer ones in its own way."""
    rows = made_up_rows(2 * ROWS)
    if "LAYERMIX_ROWS" in os.environ:
        lines = Path(os.environ["LAYERMIX_ROWS"]).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = AutoConfig.from_pretrained(folder)
    trained = getattr(config, "layermix", None) or {}
    longest = trained.get("max_length", longest_input(config, tokenizer))
    rows = [
        row
        for row in rows
        if len(tokenizer(row["text"], row.get("text_pair"))["input_ids"]) <= longest
    ][:ROWS]
    texts = [row for row in rows if row.get("text_pair") is None]
    pairs = [row for row in rows if row.get("text_pair") is not None]
    return [
        {name: [row[name] for row in kind[start : start + BATCH]] for name in columns}
        for kind, columns in ((texts, ("text",)), (pairs, ("text", "text_pair")))
        for start in range(0, len(kind), BATCH)
    ]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def served(site: Path) -> Iterator[str]:
    """A folder on loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def browser(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """`browser(dtype, batches)`: what transformers.js answers; all it asks for is on loopback."""
    kept = os.environ.get("LAYERMIX_TRANSFORMERS_JS")
    cache = Path(kept).absolute() if kept else tmp_path_factory.mktemp("npm")
    library = fetch("@huggingface/transformers", TRANSFORMERS_JS, cache)
    wanted = json.loads((library / "package.json").read_text(encoding="utf-8"))["dependencies"]
    runtime = fetch("onnxruntime-web", wanted["onnxruntime-web"], cache)
    site = tmp_path_factory.mktemp("site")
    (site / "models").mkdir()
    (site / "models/exported").symlink_to(folder, target_is_directory=True)
    (site / "transformers").symlink_to(library / "dist", target_is_directory=True)
    (site / "onnxruntime").symlink_to(runtime / "dist", target_is_directory=True)
    (site / "index.html").write_text(PAGE, encoding="utf-8")
    asked: list[str] = []
    with served(site) as origin, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", *QUIET]
        )
        context = chromium.new_context()
        context.on("request", lambda request: asked.append(request.url))
        page = context.new_page()
        page.goto(origin)
        page.wait_for_function("document.documentElement.dataset.ready === 'yes'")

        def answers(dtype: str, batches: list[Batch]) -> Answers:
            found = page.evaluate("(wanted) => window.answer(wanted)", [dtype, batches])
            assert any(url.endswith(".onnx") for url in asked)
            assert any(url.endswith(".wasm") for url in asked)
            assert [url for url in asked if urlsplit(url).hostname != "127.0.0.1"] == []
            return Answers(np.array(found["probabilities"]), found["names"])

        yield answers
        chromium.close()


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Show a number that was found, whether or not the test fails."""

    def show(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{line}\n")

    return show


def by_pytorch(folder: Path, batches: list[Batch]) -> Answers:
    """With nothing but transformers."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits = [model(**inputs).logits.numpy() for inputs in tokenized(folder, batches)]
    return in_words(folder, logits)


def by_onnxruntime(folder: Path, file: str, batches: list[Batch]) -> Answers:
    session = onnxruntime.InferenceSession(folder / "onnx" / file)
    names = [one.name for one in session.get_inputs()]
    logits = [
        session.run(["logits"], {name: inputs[name].numpy() for name in names})[0]
        for inputs in tokenized(folder, batches)
    ]
    return in_words(folder, logits)


def tokenized(folder: Path, batches: list[Batch]) -> Iterator[Any]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for batch in batches:
        yield tokenizer(**batch, padding=True, return_tensors="pt")


def in_words(folder: Path, logits: list[NDArray[np.float32]]) -> Answers:
    names = AutoConfig.from_pretrained(folder).id2label
    return Answers(softmax(np.concatenate(logits), -1), [names[i] for i in range(len(names))])


def test_float32_answers_alike_in_pytorch_onnxruntime_and_a_browser(
    folder: Path, batches: list[Batch], browser: Callable[..., Answers], tell: Callable[[str], None]
) -> None:
    pytorch = by_pytorch(folder, batches)
    python = by_onnxruntime(folder, "model.onnx", batches)
    page = browser("fp32", batches)
    tell(
        f"{len(page.labels)} rows, float32, from PyTorch: onnxruntime "
        f"{pytorch.furthest(python):.1e}, browser {pytorch.furthest(page):.1e}"
    )
    assert len(set(pytorch.labels)) > 1, "rows with one answer only tell little"
    assert python.labels == pytorch.labels
    assert page.labels == pytorch.labels
    assert pytorch.furthest(python) <= NEAR
    assert pytorch.furthest(page) <= NEAR


def test_int8_answers_alike_in_onnxruntime_and_a_browser(
    folder: Path, batches: list[Batch], browser: Callable[..., Answers], tell: Callable[[str], None]
) -> None:
    if not (folder / "onnx/model_quantized.onnx").exists():
        pytest.skip(f"{folder} was exported without int8")
    python = by_onnxruntime(folder, "model_quantized.onnx", batches)
    page = browser("q8", batches)
    # An activation that is rounded to the other side moves by a whole int8 step, and later blocks
    # carry it on, so no number fits all models: the measure is how far int8 is from float32.
    moved = python.furthest(by_onnxruntime(folder, "model.onnx", batches))
    same = np.mean([one == other for one, other in zip(page.labels, python.labels, strict=True)])
    tell(
        f"{len(page.labels)} rows, int8, browser: {python.furthest(page):.1e} from onnxruntime "
        f"(which is {moved:.1e} from float32), {same:.1%} same labels"
    )
    assert python.furthest(page) <= moved
    assert same >= SAME_INT8
