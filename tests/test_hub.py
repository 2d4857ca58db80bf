"""Without a network the weights of ImageNet are refused in one sentence within seconds; any answer is a network."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

import model.hub
from model import BackboneError, HeightRegressor
from model.backbone import with_tag
from model.hub import cached_weights, check_download


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub whose machine accepts connections and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield


@pytest.fixture(params=[200, 404, 503])
def status(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A hub, or a mirror of it, that answers with this status."""

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(request.param)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield request.param
    server.shutdown()
    server.server_close()


def put_into_cache(tmp_path: Path, tag: str) -> Path:
    file = tmp_path / f"hub/models--timm--{tag}/snapshots/abc/model.safetensors"
    file.parent.mkdir(parents=True)
    torch.manual_seed(1)
    safetensors.torch.save_file(timm.create_model("convnext_atto").state_dict(), file)
    return file


def test_a_hub_that_does_not_answer_is_given_up(silent: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.hub, "PATIENCE", 0.2)
    with pytest.raises(
        BackboneError, match=r"of convnext_atto could not be downloaded .*no answer within 0 s|timed out"
    ):
        check_download("convnext_atto")


def test_without_a_network_there_is_one_sentence_and_no_retry(
    silent: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # no one listens
    with pytest.raises(BackboneError, match=r"or train from random weights with --weights none$"):
        HeightRegressor("convnext_atto", weights="imagenet")
    assert "Retrying" not in "".join(capfd.readouterr())


def test_any_answer_shows_that_the_network_works(status: int) -> None:
    if status == 503:
        with pytest.raises(BackboneError, match="HTTP status 503"):
            check_download("convnext_atto")
    else:
        check_download("convnext_atto")


def test_offline_mode_asks_no_one(silent: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BackboneError, match="HF_HUB_OFFLINE is set, and nothing is in"):
        check_download("convnext_atto")


def test_weights_in_the_cache_need_no_network(silent: None, tmp_path: Path) -> None:
    put_into_cache(tmp_path, "convnext_atto_ols.a2_in1k")  # of another backbone
    assert cached_weights("convnext_atto") is None
    tag = with_tag("convnext_atto")
    file = put_into_cache(tmp_path, tag)
    assert cached_weights("convnext_atto") == cached_weights(tag) == file
    check_download("convnext_atto")
    mine = HeightRegressor("convnext_atto", weights="imagenet").backbone.state_dict()
    name = "stages.2.blocks.1.mlp.fc1.weight"
    assert torch.equal(mine[name], safetensors.torch.load_file(file)[name])
