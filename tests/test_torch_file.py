"""Damaged and hostile files of torch.save are refused with the name of the entry; honest ones are read exactly."""

from __future__ import annotations

import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from model import BackboneError, CheckpointError, HeightRegressor, checkpoint
from model.names import below_prefix, timm_names, without_wrappers
from model.torch_file import Unreadable, read_torch_file
from tests.stored_zip import records

PAGE = 4096
STATS = (0.2, 0.1, 109.0, 49.0)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with tensors of one page and more."""
    path = tmp_path_factory.mktemp("small") / "small.pt"
    torch.manual_seed(0)
    state = {f"w{i}": torch.randn(3, 1024) for i in range(3)}
    about = {"scenes": [f"K3_KOR_{i:05}" for i in range(1200)]}
    torch.save({"model": state, "stats": STATS, "about": about, "bias": torch.randn(3)}, path)
    return path


def flipped(data: bytearray, at: int, size: int, rng: random.Random) -> None:
    data[at + rng.randrange(size)] ^= 1 << rng.randrange(8)


def zeroed(data: bytearray, at: int, size: int, rng: random.Random) -> None:
    data[at : at + min(PAGE, size)] = bytes(min(PAGE, size))


def swapped(data: bytearray, at: int, size: int, rng: random.Random) -> None:
    half = min(PAGE, size // 2)
    data[at : at + half], data[at + size - half : at + size] = data[at + size - half : at + size], data[at : at + half]


@pytest.mark.parametrize("damage", [flipped, zeroed, swapped])
def test_every_damaged_record_is_refused_by_its_name(damage: Callable[..., None], small: Path, tmp_path: Path) -> None:
    whole, rng, tried = small.read_bytes(), random.Random(1), 0
    for name, at, size in records(small):
        data = bytearray(whole)
        damage(data, at, size, rng)
        if data == whole:  # such as an exchange of equal bytes
            continue
        (tmp_path / "x.pt").write_bytes(data)
        with pytest.raises(CheckpointError, match=r"x\.pt.*the entry .* is damaged") as refused:
            checkpoint.load(tmp_path / "x.pt")
        assert name in str(refused.value)
        tried += 1
    assert tried >= 5


def test_a_flipped_byte_anywhere_is_refused_or_changes_nothing(small: Path, tmp_path: Path) -> None:
    whole, rng = small.read_bytes(), random.Random(2)
    expected = checkpoint.load(small)
    directory = whole.rindex(b"PK\x01\x02", 0, whole.index(b"PK\x01\x02") + 4)
    for at in [*rng.sample(range(len(whole)), 60), *range(directory, len(whole), 5)]:
        data = bytearray(whole)
        data[at] ^= 1 << rng.randrange(8)
        (tmp_path / "x.pt").write_bytes(data)
        try:
            found = checkpoint.load(tmp_path / "x.pt")
        except CheckpointError:
            continue
        assert found["about"] == expected["about"]
        assert all(torch.equal(found["model"][name], value) for name, value in expected["model"].items())


def test_honest_contents_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    shared = torch.randn(4, 6)
    contents = {
        "views": [shared[1:, ::2], shared.T, torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)],
        "types": [torch.ones(3, dtype=dtype) for dtype in (torch.bfloat16, torch.float16, torch.bool, torch.int64)],
        "empty": (torch.zeros(0, 3), {}, [], None, True, 2**40, float("inf"), "글"),
        "parameter": torch.nn.Parameter(torch.randn(2)),
    }
    torch.save(contents, tmp_path / "x.pt")
    found, expected = read_torch_file(tmp_path / "x.pt"), torch.load(tmp_path / "x.pt", weights_only=True)
    for mine, theirs in zip(
        [*found["views"], *found["types"], found["parameter"], found["empty"][0]],
        [*expected["views"], *expected["types"], expected["parameter"], expected["empty"][0]],
        strict=True,
    ):
        assert (mine.dtype, mine.stride()) == (theirs.dtype, theirs.stride())
        assert torch.equal(mine, theirs)
    assert found["empty"][1:] == expected["empty"][1:]


@pytest.mark.parametrize("stats", [np.array(STATS), np.array(STATS, ">f4"), tuple(map(np.float32, STATS)), list(STATS)])
def test_statistics_of_numpy_are_read(stats: Any, tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.zeros(1)}, "stats": stats}, tmp_path / "x.pt")
    assert checkpoint.load(tmp_path / "x.pt")["stats"] == pytest.approx(STATS)


class Call:
    """Pickled as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def bomb() -> list[Any]:
    value: list[Any] = [0.0] * 10
    for _ in range(12):
        value = [value] * 10
    return value


def looped() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (Path("x"), r"pathlib.* besides dense tensors"),
        (Call(print, "called"), r"(builtins|__builtin__)\.print besides dense tensors"),
        (Call(bytearray, 10**12), r"bytearray besides dense tensors"),
        (torch.zeros(3).to_sparse(), "besides dense tensors"),
        (torch.zeros(3, device="meta"), "besides dense tensors"),
        (torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), "besides dense tensors|a Tensor"),
        (torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.quint8), "besides dense tensors"),
        (torch.zeros(3, dtype=torch.float8_e4m3fn), "besides dense tensors"),
        (torch.zeros(3, dtype=torch.complex64), "besides dense tensors"),
        (np.array(["text"]), "numpy's dtype"),
        (np.array([object()], dtype=object), "besides dense tensors|numpy's dtype"),
        ({(1, 2): 3}, "key of the kind tuple"),
        (1 << 70, "integer of 71 bits"),
        ({1.0, 2.0}, "besides dense tensors"),
        (1j, "besides dense tensors"),
        (lambda: nested(60), "nested too deeply"),
        (looped, "nested too deeply"),
        (bomb, "nested too deeply, or there are too many"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_neither_a_dense_tensor_nor_a_plain_value_is_named(
    value: Any, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("model.torch_file.MOST_VALUES", 20_000)
    value = value() if callable(value) else value
    torch.save({"model": {"w": torch.zeros(1)}, "stats": STATS, "extra": value}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=rf"x\.pt, found none that can be read safely: .*({sentence})"):
        checkpoint.load(tmp_path / "x.pt")
    assert "called" not in capsys.readouterr().out


def rewritten(path: Path, out: Path, change: Callable[[dict[str, bytes]], None], how: int = zipfile.ZIP_STORED) -> Path:
    """A copy of the ZIP at `path` with right CRCs, after `change` of its members."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(out, "w", how) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out


def test_compressed_entries_are_refused(small: Path, tmp_path: Path) -> None:
    bomb = rewritten(small, tmp_path / "x.pt", lambda members: None, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="is compressed, which"):
        checkpoint.load(bomb)


def test_a_tensor_beyond_its_bytes_is_refused(small: Path, tmp_path: Path) -> None:
    def shorten(members: dict[str, bytes]) -> None:
        name = next(name for name in members if name.endswith("/data/0"))
        members[name] = members[name][:-4]

    with pytest.raises(CheckpointError, match="the entry data/0 does not hold the 3072 numbers"):
        checkpoint.load(rewritten(small, tmp_path / "x.pt", shorten))
    torch.save({"model": {"w": torch.zeros(1).expand(1 << 33)}, "stats": STATS}, tmp_path / "y.pt")
    with pytest.raises(CheckpointError, match="the entry data/0 has fewer bytes than its shape"):
        checkpoint.load(tmp_path / "y.pt")


def test_a_huge_memo_index_and_a_large_pickle_cost_no_memory(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def memo(members: dict[str, bytes]) -> None:
        name = next(name for name in members if name.endswith("/data.pkl"))
        members[name] = b"\x80\x02}" + pickle.LONG_BINPUT + b"\xff\xff\xff\x7f" + b"."

    with pytest.raises(CheckpointError, match="another kind of file"):
        checkpoint.load(rewritten(small, tmp_path / "x.pt", memo))
    monkeypatch.setattr("model.torch_file.LARGEST_PICKLE", 1000)
    with pytest.raises(Unreadable, match=r"data\.pkl has .* bytes, more than 1000"):
        read_torch_file(small)


@pytest.mark.parametrize(
    ("stats", "sentence"),
    [
        ((1e30, 1.0, 1.0, 1.0), "expected finite statistics"),
        ((1.0, -1.0, 1.0, 1.0), "positive deviations"),
        ((1.0, 1.0, float("inf"), 1.0), "expected finite statistics"),
        ({"a": 1}, "expected four statistics"),
        (torch.zeros(4, 2), "expected four statistics"),
        (None, "expected four statistics"),
    ],
)
def test_statistics_that_are_not_four_plausible_numbers_are_refused(stats: Any, sentence: str, tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.zeros(1)}, "stats": stats}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=sentence):
        checkpoint.load(tmp_path / "x.pt")


def test_a_state_dict_without_statistics_needs_them(tmp_path: Path) -> None:
    for contents in ({"w": torch.zeros(1)}, {"state_dict": {"w": torch.zeros(1)}}, {"model": {"w": torch.zeros(1)}}):
        torch.save(contents, tmp_path / "x.pt")
        with pytest.raises(CheckpointError, match="without the four statistics; give them with --statistics"):
            checkpoint.load(tmp_path / "x.pt")
        assert checkpoint.load(tmp_path / "x.pt", STATS)["stats"] == STATS
    torch.save({"model": {"w": "text"}, "stats": STATS}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="expected a dict of tensors by their names in the entry model"):
        checkpoint.load(tmp_path / "x.pt")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "net.module."])
def test_prefixes_of_wrappers_are_taken_off(prefix: str, tmp_path: Path) -> None:
    state = {"backbone.stem.0.weight": torch.zeros(1), "head.0.bias": torch.ones(2)}
    torch.save({"model": {prefix + name: value for name, value in state.items()}, "stats": STATS}, tmp_path / "x.pt")
    assert set(checkpoint.load(tmp_path / "x.pt")["model"]) == set(state)


def test_two_networks_in_one_state_are_refused() -> None:
    with pytest.raises(ValueError, match=r"several networks, with student\.stem\.0\.weight and teacher\.stem"):
        timm_names({"student.stem.0.weight": torch.zeros(1), "teacher.stem.0.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="differ only in the prefix"):
        without_wrappers({"module.a": torch.zeros(1), "a": torch.zeros(1)})
    assert below_prefix({"fc.weight": torch.zeros(1)}, "stem.0.weight") == {}


# --- Weights of the backbone.


@pytest.fixture(scope="module")
def donor() -> dict[str, Tensor]:
    torch.manual_seed(1)
    state: dict[str, Tensor] = timm.create_model("convnext_atto").state_dict()
    return state


def transformers_name(name: str) -> str:
    """The name of timm's tensor in ConvNextForImageClassification of transformers 5.24, and in its V2."""
    if name.startswith("head.fc"):
        return name.replace("head.fc", "classifier")
    for mine, theirs in (
        ("stem.0", "embeddings.patch_embeddings"),
        ("stem.1", "embeddings.layernorm"),
        ("head.norm", "layernorm"),
        ("stages.", "encoder.stages."),
        (".blocks.", ".layers."),
        (".downsample.", ".downsampling_layer."),
        ("conv_dw", "dwconv"),
        (".norm.", ".layernorm."),
        ("mlp.fc", "pwconv"),
        ("mlp.grn", "grn"),
        ("gamma", "layer_scale_parameter"),
    ):
        name = name.replace(mine, theirs)
    return f"convnext.{name}"


@pytest.mark.parametrize(
    "rename",
    [lambda name: f"encoder.{name}", lambda name: f"module._orig_mod.backbone.{name}", transformers_name],
    ids=["encoder", "wrappers", "transformers"],
)
def test_weights_with_other_names_bring_every_tensor(
    rename: Callable[[str], str], donor: dict[str, Tensor], tmp_path: Path
) -> None:
    linear = {name: value.flatten(1) if "mlp.fc" in name and value.ndim > 1 else value for name, value in donor.items()}
    torch.save({"state_dict": {rename(name): value for name, value in linear.items()}}, tmp_path / "x.pth")
    mine = HeightRegressor("convnext_atto", weights=tmp_path / "x.pth").backbone.state_dict()
    assert all(torch.equal(value, donor[name]) for name, value in mine.items() if name != "stem.0.weight")
    torch.testing.assert_close(mine["stem.0.weight"][:, :3], donor["stem.0.weight"] * 3 / 5)


def test_a_second_version_of_transformers_brings_every_tensor(tmp_path: Path) -> None:
    torch.manual_seed(2)
    donor = timm.create_model("convnextv2_atto").state_dict()
    theirs = {
        f"v2.{transformers_name(name)}": value[None, None, None] if "grn" in name else value
        for name, value in donor.items()
    }
    torch.save(theirs, tmp_path / "x.pth")
    mine = HeightRegressor("convnextv2_atto", weights=tmp_path / "x.pth").backbone.state_dict()
    assert all(torch.equal(value, donor[name]) for name, value in mine.items() if name != "stem.0.weight")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda own: {"x": torch.zeros(1)}, "found none of them: the file is of another network"),
        (lambda own: own.pop("stages.2.blocks.1.gamma"), r"stages\.2\.blocks\.1\.gamma is missing"),
        (lambda own: own.update({"stem.1.bias": torch.zeros(7)}), r"stem\.1\.bias of shape \(7,\) instead of"),
        (lambda own: own.update({"stem.1.bias": torch.full((40,), torch.nan)}), r"finite numbers in stem\.1\.bias"),
        (lambda own: own.update({"stages.9.x": torch.zeros(1)}), r"found stages\.9\.x, which convnext_atto lacks"),
    ],
)
def test_weights_that_do_not_bring_every_tensor_are_refused(
    change: Callable[[dict[str, Tensor]], Any], sentence: str, donor: dict[str, Tensor], tmp_path: Path
) -> None:
    own = dict(donor)
    changed = change(own)
    torch.save(changed if isinstance(changed, dict) else own, tmp_path / "x.pth")
    with pytest.raises(BackboneError, match=sentence):
        HeightRegressor("convnext_atto", weights=tmp_path / "x.pth")
