"""onnxruntime-web in headless Chromium: everything that touches it. Its package comes by npm, pinned by checksums.

The browser asks a small server on this machine for work and sends back what came out: nothing else drives it.
"""

import contextlib
import hashlib
import importlib.resources
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import unquote

import numpy as np
from safetensors.numpy import load as read_tensors
from safetensors.numpy import save as tensors_to_bytes

from distiq.errors import UserError
from distiq.files import make_folder, write_atomically

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
WAIT_S = 120.0  # for an answer of the browser; a chunk of a large network takes seconds
FLAGS = ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-port=0",
         "--disable-background-timer-throttling", "--disable-extensions", "--mute-audio")  # fmt: skip


class Package(NamedTuple):
    """A package of the npm registry: its version, and the files that are taken from it with their SHA-256."""

    name: str
    version: str
    files: Mapping[str, str]


RUNTIME = Package(
    "onnxruntime-web",
    "1.30.0",
    {
        "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
        "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
        "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    },
)
TOKENIZERS = Package(
    "@huggingface/tokenizers",
    "0.2.0",
    {"tokenizers.min.mjs": "258e46332101335ce8d95aed7745b19ac3b46d37f3e159a89cf894c2ea9b1d3a"},
)

WORKER = """<!doctype html><title>distiq</title><script type="module">
import { open, runtime } from "./model.js";
import { readTensors, writeTensors } from "./tensors.js";
const ort = await runtime(), models = {};
const said = (values) => encodeURIComponent(JSON.stringify(values));
async function opened(page) {
  const frame = document.createElement("iframe");
  frame.src = page;
  document.body.append(frame);
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    const text = (id) => frame.contentDocument?.getElementById(id)?.textContent ?? "";
    if (text("facts").startsWith("This page cannot start")) throw new Error(text("facts"));
    if (text("opened")) return { "X-Said": said([text("replay"), text("opened")]) };
  }
}
async function work(answer) {
  const { file, seconds, page } = JSON.parse(answer.headers.get("X-Job"));
  if (page) return opened(page);
  const inputs = readTensors(await answer.arrayBuffer());
  models[file] ??= await open(ort, new URL(file, document.baseURI).href);
  const outputs = await models[file](inputs), times = [];
  let calls = 1; // timed together, as many as the clock's steps of 5 microseconds vanish in
  for (const end = performance.now() + 1000 * seconds; seconds && (performance.now() < end || !times.length); ) {
    const began = performance.now();
    for (let call = 0; call < calls; call++) await models[file](inputs);
    const ms = performance.now() - began;
    if (ms < 0.5) calls *= 2;
    else times.push(Number((ms / calls).toPrecision(4)));
  }
  return { "X-Said": said(times.slice(0, 2000)), body: writeTensors(outputs) };
}
for (;;) {
  const answer = await fetch("job");
  if (answer.status !== 200) continue;
  const { body, ...headers } = await work(answer).catch((error) => ({ "X-Error": encodeURIComponent(String(error)) }));
  await fetch("done", { method: "POST", body: body ?? "", headers });
}
</script>"""


def lacks_browser() -> str:
    """What is missing for measurements in a browser, with what to install; empty where nothing is."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        return f"npm is not installed here, which fetches {RUNTIME.name}: install Node.js with npm"
    if not any(map(shutil.which, CHROMIUM)):
        return "Chromium is not installed here: apt-get install chromium, or Chrome"
    return ""


def fetch(package: Package, cache: Path) -> list[Path]:
    """The package's files, fetched with npm if the cache lacks them; each has the pinned checksum.

    Raises:
        UserError: npm cannot fetch it, or a file is not the pinned one.
    """
    name = f"{package.name}@{package.version}"
    folder = cache / re.sub(r"\W+", "-", name).strip("-")
    files = [folder / one for one in package.files]
    if not all(file.is_file() for file in files):
        with tempfile.TemporaryDirectory(prefix="distiq-npm-") as place:
            command = ["npm", "pack", name, "--loglevel=error", "--ignore-scripts"]
            packed = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=300, check=False)
            archives = list(Path(place).glob("*.tgz"))
            if packed.returncode or not archives:
                said = (packed.stderr.strip().splitlines() or ["it says nothing"])[0]
                raise UserError(f"npm cannot fetch {name}: {said}; go online once, or set export.web to false")
            make_folder(folder)
            with tarfile.open(archives[0]) as archive:
                for file in files:
                    member = archive.extractfile(f"package/dist/{file.name}")
                    assert member is not None
                    write_atomically(file, member.read())
    for file in files:
        if hashlib.sha256(file.read_bytes()).hexdigest() != package.files[file.name]:
            raise UserError(f"{file}: not the file of {name} that distiq knows; remove it and run again")
    return files


def page_files() -> dict[str, bytes]:
    """The page and its scripts, by name."""
    folder = importlib.resources.files("distiq") / "device" / "web"
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir(), key=lambda file: file.name)}


def page_checksum() -> str:
    """The SHA-256 of the page's files."""
    return hashlib.sha256(b"".join(page_files().values())).hexdigest()


class Answer(NamedTuple):
    """Outputs by name, and the milliseconds of each repeated call."""

    outputs: dict[str, np.ndarray]
    times_ms: list[float]


class Browser:
    """Headless Chromium with onnxruntime-web on one thread, as long as the context lasts.

    Args:
        models: ONNX files by the names that `run` knows them by.
        runtime: the files of `RUNTIME`.
    """

    def __init__(self, models: Mapping[str, Path], runtime: Sequence[Path]) -> None:
        self.place = tempfile.TemporaryDirectory(prefix="distiq-web-")
        self.folder = site = Path(self.place.name) / "site"
        site.mkdir()
        for name, content in page_files().items():
            (site / name).write_bytes(content)
        (site / "worker.html").write_text(WORKER, encoding="utf-8")
        for file in runtime:
            (site / file.name).symlink_to(file.resolve())
        for name, path in models.items():
            shutil.copyfile(path, site / f"{name}.onnx")
        self.site = _Site(site)
        self.version = ""
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        program = next(filter(None, map(shutil.which, CHROMIUM)))
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
        self.version = " ".join(said.split()[:2])
        threading.Thread(target=self.site.serve_forever, daemon=True).start()
        flags = [*FLAGS, f"--user-data-dir={Path(self.place.name) / 'profile'}"]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")  # Chromium refuses to start as root with it
        self.process = subprocess.Popen(
            [program, *flags, f"http://127.0.0.1:{self.site.server_port}/worker.html"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.site.shutdown()
        self.site.server_close()
        shutil.rmtree(self.place.name, ignore_errors=True)  # a dying process may still write into it
        self.place.cleanup()

    def run(self, model: str, inputs: Mapping[str, np.ndarray], seconds: float = 0.0) -> Answer:
        """What a model gives for inputs (B, ...) by name; then the same calls again for so many seconds, timed.

        Raises:
            UserError: the browser cannot run the file, or has ended.
        """
        content = tensors_to_bytes({name: np.ascontiguousarray(one) for name, one in inputs.items()})
        said, body = self._done({"file": f"{model}.onnx", "seconds": seconds}, content, f"run the {model} file")
        return Answer(read_tensors(body), said)

    def replay(self, folder: Path) -> str:
        """What a page says of its test vectors, opened in this browser.

        Raises:
            UserError: it does not start.
        """
        (self.folder / "bundle").symlink_to(folder.resolve())
        said, _ = self._done({"page": "bundle/index.html"}, b"", f"open {folder}")
        return " ".join(said)

    def _done(self, job: dict[str, Any], content: bytes, what: str) -> tuple[list[Any], bytes]:
        self.site.jobs.put((json.dumps(job), content))
        error, said, body = self._result(time.monotonic() + WAIT_S + job.get("seconds", 0.0))
        if error:
            raise UserError(f"{RUNTIME.name} cannot {what}: {error}")
        return json.loads(said), body

    def _result(self, until: float) -> tuple[str, str, bytes]:
        while True:
            try:
                return self.site.results.get(timeout=1.0)
            except queue.Empty:
                ended = self.process is None or self.process.poll() is not None
                if ended or time.monotonic() > until:
                    why = "ended by itself" if ended else f"did not answer within {WAIT_S:.0f} s"
                    raise UserError(f"Chromium {why}; try it again, or set export.web to false") from None


class _Site(ThreadingHTTPServer):
    """Serves a folder, hands out jobs and takes results."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
        self.jobs: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.results: queue.Queue[tuple[str, str, bytes]] = queue.Queue()


class _Handler(SimpleHTTPRequestHandler):
    """Headers that isolate the page give its clock 5 microseconds in place of 100."""

    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript", ".wasm": "application/wasm"}
    server: _Site

    def do_GET(self) -> None:
        if self.path != "/job":
            return super().do_GET()
        try:
            job, content = self.server.jobs.get(timeout=20)
        except queue.Empty:
            return self._reply(204)
        return self._reply(200, content, job)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        error, said = (unquote(self.headers.get(name, "")) for name in ("X-Error", "X-Said"))
        self.server.results.put((error, said or "[]", body))
        self._reply(204)

    def _reply(self, status: int, content: bytes = b"", job: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Job", job)
        self.end_headers()
        self.wfile.write(content)

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        pass
