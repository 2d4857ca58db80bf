"""The likelihood that is trained."""

from __future__ import annotations

from torch import Tensor


def gaussian_nll(
    mu: Tensor, log_var: Tensor, target: Tensor, variance_weight: Tensor | float = 1.0, beta: float = 0.0
) -> Tensor:
    """Negative log-likelihood without its constant: ½ (log_var + (target - mu)² / exp(log_var)), all (B,) → (B,).

    `variance_weight` scales the gradient that reaches log_var and nothing else: 0 while the mean warms up (the
    reference detaches log_var for four epochs; Sluijterman et al. 2023, arXiv:2302.08875), then 1.  As a 0-dim
    tensor it changes without a new compiled graph, which a bool would need.

    `beta` multiplies each sample's loss by its variance to this power, held constant (β-NLL, Seitzer et al. 2022,
    arXiv:2203.09168): 0 is the likelihood; 1 weighs the samples' errors alike, as the squared error does.
    """
    log_var = log_var * variance_weight + (log_var * (1 - variance_weight)).detach()
    nll = 0.5 * (log_var + (target - mu) ** 2 / log_var.exp())
    return nll if beta == 0 else nll * (beta * log_var.detach()).exp()
