"""A bundle for the Hugging Face hub: its card, as the hub's own package reads it, and the way there.

No hub can be reached from here: `Hub` stands in for the calls of its HTTP interface that an upload makes, with
the fields that huggingface_hub reads.
"""

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, ModelCardData
from torch import nn

from distiq.bundle.hub import front_matter, hub_name
from distiq.bundle.write import write_bundle
from distiq.commands.push import push
from distiq.data.splits import Data
from distiq.errors import UserError
from distiq.recipe.read import parse_recipe
from distiq.recipe.recipe import to_toml
from distiq.records.run import RunRecord
from distiq.report.reading import chosen_trial
from distiq.runtimes.export import export

from ..report.conftest import run_record


class Hub(BaseHTTPRequestHandler):
    """The stand-in: makes a repository, says that files go with the commit, keeps what a commit holds."""

    repositories: list[str] = []
    files: dict[str, bytes] = {}
    refuses = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.refuses:
            return self.reply(403, {"error": "You may not write here"})
        if self.path == "/api/repos/create":
            self.repositories.append(json.loads(body)["name"])
            return self.reply(200, {"url": f"http://{self.headers['Host']}/me/tiny"})
        if self.path == "/api/validate-yaml":
            return self.reply(200, {"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            return self.reply(200, {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                                              for one in asked]})  # fmt: skip
        assert "/commit/" in self.path
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self.reply(200, {"commitUrl": f"http://{self.headers['Host']}/me/tiny/commit/1", "commitOid": "1",
                                "success": True})  # fmt: skip

    def do_GET(self) -> None:
        self.reply(200, {"id": "me/tiny", "sha": "0", "siblings": []})

    def reply(self, status: int, document: dict) -> None:
        text = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch) -> Iterator[type[Hub]]:
    monkeypatch.setattr(Hub, "files", {})
    monkeypatch.setattr(Hub, "repositories", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")  # HF_ENDPOINT
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    yield Hub
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def made(tiny_data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a network of one layer, beside the records that a run leaves."""
    tmp_path = tmp_path_factory.mktemp("push")
    run = run_record(rungs=("static",))
    run.save(tmp_path / "records" / "run.json")
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).eval()
    file = export(model, tmp_path / "model.onnx", tiny_data.normalize(tiny_data.test.inputs[:2]))
    write_bundle(tmp_path / "bundle", file, run, chosen_trial(run), tiny_data)
    return tmp_path


@pytest.fixture
def small_bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "made")) / "bundle"


def test_the_card_is_read_by_the_hubs_own_package(small_bundle: Path):
    run = RunRecord.load(small_bundle.parent / "records" / "run.json")
    card = ModelCard.load(small_bundle / "README.md")
    assert isinstance(card.data, ModelCardData)
    (accuracy, *_) = card.data.eval_results
    measured = chosen_trial(run).deployed.test
    assert (accuracy.metric_type, accuracy.metric_value) == ("accuracy", measured.value)
    assert accuracy.metric_args["interval_95"] == list(measured.primary.interval)
    assert accuracy.metric_args["samples"] == measured.samples
    assert accuracy.task_type == card.data.pipeline_tag == "image-classification"
    assert card.data.library_name == "distiq" and {"distiq", "quantization"} <= set(card.data.tags)
    assert "license" not in card.data.to_dict(), "nobody said one"
    assert card.text.strip().startswith(f"# {run.name}")
    assert not (small_bundle / "CARD.md").exists()


def test_licence_base_model_and_data_stand_in_the_card(small_bundle: Path):
    run = RunRecord.load(small_bundle.parent / "records" / "run.json")
    recipe = parse_recipe({
        "export": {"licence": "mit"}, "teacher": {"model": "transformers:vit", "weights": "google/vit-base"},
        "data": {"source": "folder", "hub": {"name": "uoft-cs/cifar10", "label": "label"}},
    })  # fmt: skip
    told = RunRecord.model_validate({**dict(run), "recipe_toml": to_toml(recipe)})
    data = ModelCard(front_matter(told, chosen_trial(told), "softmax") + "# x").data
    assert (data.license, data.base_model, data.datasets) == ("mit", "google/vit-base", ["uoft-cs/cifar10"])
    assert data.eval_results[0].dataset_type == "uoft-cs/cifar10"


def test_a_folder_is_no_name_of_a_hub(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my" / "weights").mkdir(parents=True)
    assert [hub_name(name) for name in ("my/weights", "me/bert", "/my/weights", "a/b/c", "")] == [
        "",
        "me/bert",
        "",
        "",
        "",
    ]


def test_a_dry_run_says_names_and_sizes_and_reaches_nothing(small_bundle: Path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    (small_bundle / "notes.txt").write_text("mine")
    told = push(small_bundle, "me/tiny", dry_run=True)
    assert {file.name: file.size_bytes for file in told.files} == {
        file.name: file.stat().st_size for file in small_bundle.iterdir() if file.name != "notes.txt"
    }
    assert told.url == ""


def test_all_of_a_bundle_goes_there_and_nothing_else(small_bundle: Path, hub: type[Hub]):
    (small_bundle / "notes.txt").write_text("mine")
    (small_bundle / "web").mkdir()
    (small_bundle / "web" / "index.html").write_text("a page")
    told = push(small_bundle, "me/tiny")
    assert hub.repositories == ["tiny"] and told.url.endswith("/me/tiny/commit/1")
    assert hub.files == {file.name: (small_bundle / file.name).read_bytes() for file in told.files}
    assert {"README.md", "web/index.html"} <= set(hub.files) and "notes.txt" not in hub.files


def test_what_the_hub_refuses_is_said(small_bundle: Path, hub: type[Hub], monkeypatch):
    monkeypatch.setattr(Hub, "refuses", True)
    with pytest.raises(UserError, match=r"me/tiny: the hub did not take it \(.*403.*HF_TOKEN says who you are"):
        push(small_bundle, "me/tiny")


@pytest.mark.parametrize("name", ["a b", "me/tiny/more", "-x"])
def test_a_name_that_no_repository_has_is_refused(name: str, tmp_path: Path):
    with pytest.raises(UserError, match="no name of a repository"):
        push(tmp_path, name)


def test_a_damaged_bundle_is_not_sent(small_bundle: Path):
    (small_bundle / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"model\.onnx: damaged or changed"):
        push(small_bundle, "me/tiny", dry_run=True)
