"""The training loss: Gaussian NLL, optionally β-NLL."""

from __future__ import annotations

from torch import Tensor


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
    log_var = log_var * variance_weight + (log_var * (1 - variance_weight)).detach()
    nll = 0.5 * (log_var + (target - mu) ** 2 / log_var.exp())
    return nll if beta == 0 else nll * (beta * log_var.detach()).exp()
