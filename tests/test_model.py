"""The network against a plain forward pass of the reference, the loss against torch's, checkpoints against damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from model import BackboneError, CheckpointError, HeightRegressor, gaussian_nll
from model.checkpoint import load, load_into
from train.run.folder import save_checkpoint

STATS = (0.2, 0.1, 109.0, 49.0)


@pytest.fixture
def network() -> HeightRegressor:
    torch.manual_seed(0)
    network = HeightRegressor("convnext_atto", drop_path=0.0)
    for parameter in network.parameters():  # some start at zero, and their paths would not be tested
        parameter.data += 0.05 * torch.randn_like(parameter)
    return network


def reference_forward(state: dict[str, Tensor], backbone: nn.Module, image: Tensor, length: Tensor) -> Any:
    """The forward pass of the reference, written from its description, on a plain state dict."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    f = backbone(image)
    gamma, beta = linear("len_to_film.2", linear("len_to_film.0", length).relu()).split(f.shape[1], 1)
    g = linear("gate_mlp.0", torch.cat([f, length], 1))
    x = torch.cat([f * (1 + gamma) + beta, length * (1 + 0.5 * g.tanh())], 1)
    out = linear("head.4", linear("head.2", linear("head.0", x).relu()).relu())
    return out[:, 0], out[:, 1].clamp(-6, 4)


def test_the_forward_pass_equals_that_of_the_reference(network: HeightRegressor) -> None:
    network.eval()
    image, length = torch.randn(3, 5, 64, 64), torch.randn(3, 1)
    state = network.state_dict()
    backbone = timm.create_model("convnext_atto", in_chans=5, num_classes=0).eval()
    backbone.load_state_dict({k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")})
    with torch.no_grad():
        for mine, expected in zip(
            network(image, length), reference_forward(state, backbone, image, length), strict=True
        ):
            assert mine.shape == (3,)
            torch.testing.assert_close(mine, expected, rtol=0, atol=1e-5)


def test_names_shapes_and_initial_values_are_those_of_the_reference() -> None:
    network = HeightRegressor("convnext_atto")
    shapes = {name: tuple(p.shape) for name, p in network.state_dict().items() if not name.startswith("backbone.")}
    assert shapes == {
        "len_to_film.0.weight": (128, 1),
        "len_to_film.0.bias": (128,),
        "len_to_film.2.weight": (640, 128),
        "len_to_film.2.bias": (640,),
        "gate_mlp.0.weight": (1, 321),
        "gate_mlp.0.bias": (1,),
        "head.0.weight": (128, 321),
        "head.0.bias": (128,),
        "head.2.weight": (64, 128),
        "head.2.bias": (64,),
        "head.4.weight": (2, 64),
        "head.4.bias": (2,),
    }
    for name in ("len_to_film.2.weight", "len_to_film.2.bias", "gate_mlp.0.bias"):
        assert not network.get_parameter(name).any()


@pytest.mark.parametrize("size", ["atto", "tiny", "base", "large"])
def test_every_convnext_from_atto_to_large_can_be_built(size: str) -> None:
    with torch.device("meta"):
        network = HeightRegressor(f"convnext_{size}", drop_path=0.0)
        features = network.backbone(torch.empty(2, 5, 224, 224))
        mu, log_var = network.fuse(features, torch.empty(2, 1))
    assert mu.shape == log_var.shape == (2,)


def test_an_unknown_backbone_is_refused() -> None:
    for name, like in {"resnet50": "convnext_base", "convnext_tinny": "convnext_tiny"}.items():
        with pytest.raises(BackboneError, match=f"expected a ConvNeXt that timm knows, such as {like}, found '{name}'"):
            HeightRegressor(name)


def test_the_head_stays_in_fp32_under_autocast(network: HeightRegressor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        mu, log_var = network(torch.randn(2, 5, 64, 64), torch.randn(2, 1))
    assert mu.dtype == log_var.dtype == torch.float32


def test_the_loss_equals_torchs_gaussian_nll() -> None:
    mu, log_var, target = torch.randn(3, 50, dtype=torch.float64)
    expected = nn.functional.gaussian_nll_loss(mu, target, log_var.exp(), reduction="none", eps=0)
    torch.testing.assert_close(gaussian_nll(mu, log_var, target), expected)


def test_during_the_variance_warm_up_no_gradient_reaches_the_variance() -> None:
    mu, log_var = torch.zeros(4, requires_grad=True), torch.full((4,), 0.7, requires_grad=True)
    target = torch.randn(4)
    warm = gaussian_nll(mu, log_var, target, torch.tensor(0.0)).sum()
    full = gaussian_nll(mu, log_var, target, torch.tensor(1.0)).sum()
    torch.testing.assert_close(warm, full)
    mu_grad, log_var_grad = torch.autograd.grad(warm, (mu, log_var))
    torch.testing.assert_close(mu_grad, (mu - target) / torch.tensor(0.7).exp())
    assert not log_var_grad.any()
    (log_var_grad,) = torch.autograd.grad(full, log_var)
    torch.testing.assert_close(log_var_grad, 0.5 * (1 - target**2 / torch.tensor(0.7).exp()))


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_beta_weights_each_sample_by_its_detached_variance(beta: float) -> None:
    mu, log_var = torch.randn(2, 50, dtype=torch.float64, requires_grad=True).unbind()
    target = torch.randn(50, dtype=torch.float64)
    variance = log_var.detach().exp()
    nll = nn.functional.gaussian_nll_loss(mu, target, log_var.exp(), reduction="none", eps=0)
    expected = torch.autograd.grad((variance**beta * nll).sum(), (mu, log_var), retain_graph=True)
    mine = torch.autograd.grad(gaussian_nll(mu, log_var, target, beta=beta).sum(), (mu, log_var))
    torch.testing.assert_close(mine, expected)
    if beta == 1:  # the gradient is that of half the squared error
        torch.testing.assert_close(mine[0], (mu - target).detach())


def test_local_imagenet_weights_are_extended_to_five_channels(tmp_path: Path) -> None:
    torch.manual_seed(1)
    donor = timm.create_model("convnext_atto")  # three channels and a classifier
    torch.save(donor.state_dict(), tmp_path / "atto.pth")
    network = HeightRegressor("convnext_atto", weights=tmp_path / "atto.pth")
    mine, theirs = network.backbone.state_dict(), donor.state_dict()
    assert torch.equal(mine["stages.2.blocks.1.mlp.fc1.weight"], theirs["stages.2.blocks.1.mlp.fc1.weight"])
    stem = theirs["stem.0.weight"]
    torch.testing.assert_close(mine["stem.0.weight"], torch.cat([stem, stem[:, :2]], 1) * 3 / 5)


def test_missing_and_foreign_weights_give_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackboneError, match=r"put timm's model\.safetensors of convnext_atto there"):
        HeightRegressor("convnext_atto", weights=tmp_path / "none.pth")
    torch.save(timm.create_model("convnext_femto").state_dict(), tmp_path / "femto.pth")
    with pytest.raises(BackboneError, match="expected timm weights of convnext_atto in"):
        HeightRegressor("convnext_atto", weights=tmp_path / "femto.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(BackboneError, match="it is no ZIP as"):
        HeightRegressor("convnext_atto", weights=tmp_path / "text.pth")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BackboneError, match="pass --weights FILE, or train from random"):
        HeightRegressor("convnext_atto", weights="imagenet")


def test_a_checkpoint_loads_as_it_was_saved(network: HeightRegressor, tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    network.to(memory_format=torch.channels_last)  # as in training
    save_checkpoint(path, {"model": network.state_dict(), "stats": STATS})
    assert [item.name for item in tmp_path.iterdir()] == ["best.pt"]
    contents = load(path)
    assert contents["stats"] == STATS
    other = HeightRegressor("convnext_atto")
    load_into(other, contents["model"], path)
    for mine, theirs in zip(network.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_failed_write_keeps_the_old_checkpoint(network: HeightRegressor, tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    save_checkpoint(path, {"model": network.state_dict(), "stats": STATS})
    with pytest.raises(Exception, match=r"pickle|local object"):
        save_checkpoint(path, {"model": {}, "stats": lambda: None})
    assert load(path)["stats"] == STATS
    assert [item.name for item in tmp_path.iterdir()] == ["best.pt"]


def _without(state: dict[str, Tensor]) -> None:
    del state["head.4.bias"]


def _extra(state: dict[str, Tensor]) -> None:
    state["surprise"] = torch.zeros(1)


def _reshaped(state: dict[str, Tensor]) -> None:
    state["head.4.bias"] = torch.zeros(3)


def _integer(state: dict[str, Tensor]) -> None:
    state["head.4.bias"] = torch.zeros(2, dtype=torch.int64)


def _nan(state: dict[str, Tensor]) -> None:
    state["head.4.bias"] = torch.tensor([0.0, float("nan")])


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_without, r"no parameter head\.4\.bias"),
        (_extra, "a parameter surprise that the network lacks"),
        (_reshaped, r"of shape \(2,\), found \(3,\)"),
        (_integer, r"as torch\.float32, found torch\.int64"),
        (_nan, "NaN or infinite"),
    ],
)
def test_a_damaged_state_is_refused_with_the_name_of_the_tensor(
    damage: Any, sentence: str, network: HeightRegressor, tmp_path: Path
) -> None:
    state = dict(network.state_dict())
    damage(state)
    save_checkpoint(tmp_path / "x.pt", {"model": state, "stats": STATS})
    with pytest.raises(CheckpointError, match=sentence):
        load_into(network, load(tmp_path / "x.pt")["model"], tmp_path / "x.pt")


@pytest.mark.parametrize(
    "contents",
    [
        [1, 2],
        {"model": {}},
        {"model": {}, "stats": (1, 2, 3)},
        {"model": {}, "stats": (0, 0, 1, 1)},
        {"model": {}, "stats": (0, 1, float("nan"), 1)},
        {"model": {}, "stats": STATS, "path": Path("x")},  # not a plain value: refused by weights_only
    ],
)
def test_contents_that_are_no_checkpoint_are_refused(contents: Any, tmp_path: Path) -> None:
    torch.save(contents, tmp_path / "x.pt")
    with pytest.raises(CheckpointError):
        load(tmp_path / "x.pt")


@pytest.mark.parametrize("data", [b"", b"PK", b"hello", b"\x80\x02."])
def test_files_of_another_kind_are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match="expected a checkpoint"):
        load(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="expected a checkpoint"):
        load(tmp_path / "missing.pt")


def test_a_mirrored_network_predicts_the_mean_for_both_images_in_evaluation_alone() -> None:
    network = HeightRegressor("convnext_atto", drop_path=0.0, layer_scale=1.0, mirror=True)
    images, length = torch.randn(3, 5, 32, 48), torch.randn(3, 1)
    with torch.no_grad():
        trained = network(images, length), network(images.flip(-1), length)
        found = network.eval()(images, length)
        mirrored = network(images.flip(-1), length)
    assert (trained[0][0] - trained[1][0]).abs().max() > 1e-4
    for one, other, mean, again in zip(*trained, found, mirrored, strict=True):
        torch.testing.assert_close((one + other) / 2, mean)
        torch.testing.assert_close(mean, again)
