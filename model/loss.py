"""The training losses: Gaussian NLL, optionally β-NLL, of each sample and of the samples of a scene together."""

from __future__ import annotations

from torch import Tensor

SHARED = 0.5
"""Share of the error variance that the samples of a scene have in common, in `scene_nll`.
A prediction is pooled with a share that is fitted after training (train/scores/calibrate.py)."""


def gaussian_nll(
    mu: Tensor, log_var: Tensor, target: Tensor, variance_weight: Tensor | float = 1.0, beta: float = 0.0
) -> Tensor:
    """Gaussian negative log-likelihood without its constant: ½ (log_var + (target - mu)² / exp(log_var)), (B,) → (B,).

    `variance_weight` scales only the gradient of log_var: 0 during the variance warm-up, then 1. The reference
    detaches log_var for four epochs (Sluijterman et al. 2023, arXiv:2302.08875). A 0-dim tensor can change without
    compiling a new graph, unlike a bool.

    `beta` multiplies the loss of each sample by its detached variance to this power (β-NLL, Seitzer et al. 2022,
    arXiv:2203.09168). 0 is the likelihood; 1 weights all samples' squared errors equally.
    """
    log_var = _warmed_up(log_var, variance_weight)
    nll = 0.5 * (log_var + (target - mu) ** 2 / log_var.exp())
    return nll if beta == 0 else nll * (beta * log_var.detach()).exp()


def scene_nll(
    mu: Tensor,
    log_var: Tensor,
    target: Tensor,
    scene: Tensor,
    group: int,
    variance_weight: Tensor | float = 1.0,
    beta: float = 0.0,
) -> Tensor:
    """`gaussian_nll` of the pooled estimate that each sample belongs to, (B,) → (B,).

    Samples are pooled within each block of `group` consecutive ones, if their `scene` (B,) int64 is the same. `group`
    divides B. So the result does not depend on how blocks are divided among ranks and parts of a batch. With a target
    that is constant in a scene, n estimates mu_i with variances v_i make one, by the rule of train/scores/pooling.py:

        mean      Σ mu_i/v_i  ÷  Σ 1/v_i
        variance  (1 + (n − 1)·SHARED) / Σ 1/v_i

    Here the errors mu_i − target_i are pooled. This gives the same, and is still right if the labels of a scene differ
    a little. The mean of the result weights a group by its number of samples; a sample that is alone counts as in
    `gaussian_nll`.
    """
    log_var = _warmed_up(log_var, variance_weight)
    precision, weighted, scene = (x.view(-1, group) for x in ((-log_var).exp(), (mu - target) / log_var.exp(), scene))
    together = (scene[:, :, None] == scene[:, None, :]).to(mu.dtype)  # (B/group, group, group)
    total = (together * precision[:, None]).sum(-1)
    error = (together * weighted[:, None]).sum(-1) / total
    pooled_log_var = (1 + (together.sum(-1) - 1) * SHARED).log() - total.log()
    return gaussian_nll(error, pooled_log_var, error.new_zeros(()), beta=beta).view(-1)


def _warmed_up(log_var: Tensor, variance_weight: Tensor | float) -> Tensor:
    return log_var * variance_weight + (log_var * (1 - variance_weight)).detach()
