"""The network: a ConvNeXt encodes the image, the polyline's length modulates its features, a head gives a Gaussian.

    f = backbone(image), or merge of all views' features         (B, d)
    gamma, beta = len_to_film(length)                            (B, d) each
    gate = 1 + 0.5 · tanh(gate_mlp([f, length]))                 (B, 1)
    mu, log_var = head([f · (1 + gamma) + beta, length · gate])  (B,) each

Parameter names and defaults are those of the reference system, so that each loads the checkpoints of the other.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from .backbone import create_backbone

LOG_VAR_RANGE = (-6.0, 4.0)
HIDDEN = 128


class HeightRegressor(nn.Module):
    """Predicts the normalised target (target.py) as a Gaussian.

    `backbone`: name of any timm ConvNeXt. `drop_path`: its stochastic depth rate. `layer_scale`: its initial layer
    scale, None for timm's 1e-6. `weights`: None for random weights, "imagenet" to let timm download them, or a local
    file with timm's weights of the backbone (.safetensors or .pth). `views`: V, the frames of a sample. `mirror`: in
    evaluation, whether the prediction is the mean of those for a frame and for its mirror image.

    Raises BackboneError if the backbone is unknown, or if its weights are missing or do not fit.
    """

    def __init__(
        self,
        backbone: str = "convnext_base",
        *,
        drop_path: float = 0.1,
        layer_scale: float | None = None,
        weights: str | Path | None = None,
        views: int = 1,
        mirror: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = create_backbone(backbone, drop_path, layer_scale, weights)
        features: int = self.backbone.num_features
        film = nn.Linear(HIDDEN, 2 * features)
        self.len_to_film = nn.Sequential(nn.Linear(1, HIDDEN), nn.ReLU(), film)
        gate = nn.Linear(features + 1, 1)
        self.gate_mlp = nn.Sequential(gate)
        self.head = nn.Sequential(
            nn.Linear(features + 1, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 64), nn.ReLU(), nn.Linear(64, 2)
        )
        for parameter in (film.weight, film.bias, gate.bias):
            nn.init.zeros_(parameter)
        self.views, self.mirror = views, mirror
        if views > 1:  # it begins as the mean
            self.merge = nn.Linear(views * features, features)
            nn.init.zeros_(self.merge.bias)
            with torch.no_grad():
                self.merge.weight.copy_(torch.eye(features).repeat(1, views) / views)

    def forward(self, image: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """(V·B, 5, S, S) normalised image, (B, 1) z-normalised length → `mu`, `log_var`, both (B,) float32.

        View 1 of all samples comes first. The backbone encodes each view as an image, and `merge` makes one vector of
        a sample's features. One view is the network of the reference.

        Under autocast only the backbone runs in the lower precision: bf16 keeps three digits, too few for a height, and
        the rest of the network takes little time.
        """
        mu, log_var = self._predict(image, length)
        if self.mirror and not self.training:
            predicted = (mu, log_var), self._predict(image.flip(-1), length)
            mu, log_var = (torch.stack(both).mean(0) for both in zip(*predicted, strict=True))
        return mu, log_var

    def _predict(self, image: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(image)
        with torch.autocast(image.device.type, enabled=False):
            features = features.float()
            if self.views > 1:
                features = self.merge(features.unflatten(0, (self.views, -1)).transpose(0, 1).flatten(1))
            return self.fuse(features, length.float())

    def fuse(self, features: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """(B, d) float32 features of the image, (B, 1) float32 length → `mu`, `log_var`, both (B,) float32."""
        gamma, beta = self.len_to_film(length).chunk(2, dim=1)
        gate = 1 + 0.5 * torch.tanh(self.gate_mlp(torch.cat([features, length], dim=1)))
        mu, log_var = self.head(torch.cat([features * (1 + gamma) + beta, length * gate], dim=1)).unbind(dim=1)
        return mu, log_var.clamp(*LOG_VAR_RANGE)
