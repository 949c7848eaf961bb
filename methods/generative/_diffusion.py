"""Noise is added to features in a few large steps, each of which networks are told by an embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark.toolkit import linear
from methods.generative._blocks import standard_normal

#: The rates of noise at the beginning and at the end of the variance-preserving diffusion, whose time runs from 0 to 1.
FIRST_RATE, LAST_RATE = 0.1, 20.0
#: The time of the clean end, and the variance that is added there.
BEGIN, LEAST = 1e-3, 1e-8


class Diffusion(nn.Module):
    """Adds noise to features in a few large steps, and takes a part of it away where the clean features are guessed.

    The variance-preserving diffusion of Song et al., Score-Based Generative Modeling, ICLR 2021, arXiv 2011.13456, in
    the steps of Xiao et al., Tackling the Generative Learning Trilemma with Denoising Diffusion GANs, ICLR 2022, arXiv
    2112.07804. Step t, from 0, leads from features x_t to x_(t+1); the last ones are hardly told from N(0, 1).

    Args:
        steps: T, the number of steps.
    """

    kept: Tensor
    rates: Tensor
    of_clean: Tensor
    of_later: Tensor
    deviation: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        time = BEGIN + (1 - BEGIN) * torch.arange(steps + 1, dtype=torch.float64) / steps
        signal = (-0.5 * time.square() * (LAST_RATE - FIRST_RATE) - time * FIRST_RATE).exp()
        rates = torch.cat([torch.tensor([LEAST], dtype=torch.float64), 1 - signal[1:] / signal[:-1]])
        share = (1 - rates[1:]).cumprod(0)
        before = torch.cat([torch.ones(1, dtype=torch.float64), share[:-1]])
        #: (T + 1,) the factor of clean features in x_t.
        self.register_buffer("kept", (1 - rates).cumprod(0).sqrt().float())
        #: (T,) the variance that step t adds.
        self.register_buffer("rates", rates[1:].float())
        #: (T,) the posterior of x_t, given x_0 and x_(t+1): the factors of both, and its standard deviation.
        self.register_buffer("of_clean", (rates[1:] * before.sqrt() / (1 - share)).float())
        self.register_buffer("of_later", ((1 - before) * (1 - rates[1:]).sqrt() / (1 - share)).float())
        self.register_buffer("deviation", (rates[1:] * (1 - before) / (1 - share)).sqrt().float())

    def draw(self, x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(B,) steps t drawn for (B, D) features x, and (B, D) x_t and (B, D) x_(t+1)."""
        t = torch.randint(len(self.rates), (len(x),), generator=rng, device=x.device)
        kept, rate = self.kept[t, None], self.rates[t, None]
        earlier = kept * x + (1 - kept.square()).sqrt() * standard_normal(x.shape, x, rng)
        return t, earlier, (1 - rate).sqrt() * earlier + rate.sqrt() * standard_normal(x.shape, x, rng)

    def before(self, clean: Tensor, later: Tensor, t: Tensor, rng: torch.Generator) -> Tensor:
        """(B, D) x_t drawn for (B, D) guesses of x_0 and (B, D) x_(t+1)."""
        mean = self.of_clean[t, None] * clean + self.of_later[t, None] * later
        return mean + self.deviation[t, None] * standard_normal(clean.shape, clean, rng)


class StepEmbedding(nn.Module):
    """(B,) steps of a diffusion to (B, size) numbers: cosines and sines, and two layers with SiLU between them."""

    waves: Tensor

    def __init__(self, steps: int, size: int, rng: torch.Generator) -> None:
        super().__init__()
        n = size // 2
        frequencies = 10_000 ** (-torch.arange(n, dtype=torch.float64) / n)
        angles = torch.arange(steps)[:, None] * frequencies
        waves = torch.zeros(steps, size)
        waves[:, : 2 * n] = torch.cat([angles.cos(), angles.sin()], dim=1)
        self.register_buffer("waves", waves)
        self.net = silu_layers(size, size, rng)

    def forward(self, t: Tensor) -> Tensor:
        embedded: Tensor = self.net(self.waves)[t]
        return embedded

    def behind(self, t: Tensor, *inputs: Tensor) -> Tensor:
        """(B, ...) ``inputs`` of a network side by side, (B, ...) each, and behind them the (B,) steps t, embedded."""
        return torch.cat([*inputs, self(t)], dim=1)


def silu_layers(n_in: int, n_out: int, rng: torch.Generator) -> nn.Sequential:
    """Two layers with SiLU between them, which embed (B, n_in) numbers as (B, n_out)."""
    return nn.Sequential(linear(n_in, n_out, rng, std=0.02), nn.SiLU(), linear(n_out, n_out, rng, std=0.02))
