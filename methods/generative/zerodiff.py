"""ZeroDiff: f-VAEGAN-D2 whose generator takes the noise of a diffusion away, judged before and after by two critics."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.api import Meta, Run, Slot, TrainData
from benchmark.registries import METHODS
from benchmark.toolkit import descend
from benchmark.toolkit.self_weighted import self_weighted_error
from methods.generative._adversarial import Critic, CriticSettings
from methods.generative._blocks import FeatureGenerator, SemanticDecoder, adam
from methods.generative._contrast import SIZE, ContrastCritic, ContrastiveFeatures
from methods.generative._diffusion import Diffusion, StepEmbedding, silu_layers
from methods.generative._synthesis import GenerativeConfig, GenerativeMethod, Round, Step
from methods.generative._variational import AutoencoderSettings, autoencoder_adam, feature_encoder, reconstruction_error

#: The power of the remaining share of the features by which the critics' agreement is weighed.
AGREEMENT_POWER = 1.5


class Noised(NamedTuple):
    """Real features on their way to noise: (B,) steps t, (B, D) x_t and (B, D) x_(t+1), and what goes with x_0.

    That is (B, A) the attributes of their classes, and (B, R) their contrastive features; (B, 0) where there are none.
    """

    t: Tensor
    earlier: Tensor
    later: Tensor
    attributes: Tensor
    contrast: Tensor


@METHODS.register(
    "zerodiff",
    title="ZeroDiff",
    family="generative",
    year=2025,
    source="Ye et al., ZeroDiff: Solidified Visual-Semantic Correlation in Zero-Shot Learning, ICLR 2025, "
    "arXiv 2406.02929",
)
class ZeroDiff(GenerativeMethod):
    """An encoder and a generator as in f-VAEGAN-D2, the generator also taking x_(t+1), features with noise, and t.

    It guesses the clean features x_0 in one jump. From its guess, x_t is drawn from the diffusion's posterior. One
    critic judges x_0, another x_t with x_(t+1) and t; each learns from the other's differences W between real and
    generated features: mutual_weight * mean f ((W_0 - sg W_t)^2 + (W_t - sg W_0)^2), f = k_t^1.5, where k_t is the
    factor of clean features in x_t, and sg stops gradients. Synthesis starts from noise, in the last step. A semantic
    decoder reads attributes from features, and the classifiers take what it reads, as in TF-VAEGAN.

    The decoder is the attribute-regression slot, on real and on reconstructed features. ``none`` is the published
    self-weighted error (``self_weighted_error``); a loss takes its place in both, and sees the classes of the batch, of
    which reconstructions are. The decoder takes a step on real features with every step of the critics.

    ``contrast: head`` adds contrastive features r, which the paper has as a second fine-tuned set: here those of a
    small network on x, which the contrast of training images trains before all else, and which is frozen then
    (``ContrastiveHead``). R-net generates r from attributes, with a diffusion and critics of its own
    (``ContrastiveFeatures``). The generator of x and the second critic are told an embedding of r, and a third critic
    judges x_0 with an embedding of r. Its W_r and the others learn from each other too, with the same f where one of
    the two is W_t, and with 1 in place of f otherwise. In synthesis r is generated first and x from it; the classifiers
    take r beside the rest. With a loss, the slot is also in a decoder of r, on real and on generated ones, so that a
    ReMSE with a memory (``window``) mixes the errors of both decoders in it.

    Ours against the release (FouriYe/ZeroDiff_ICLR25):

    | item | release | here | effect |
    | --- | --- | --- | --- |
    | contrastive features r | a second fine-tuned set | ``contrast``: none (the paper's row c), or of a head | below |
    | R-net takes | r_t, at t = 0 nearly the answer | r_(t+1), which the authors call right | not measured |
    | R-net is trained | before all else | in the same rounds; neither learns from the other | - |
    | its decoder | by MSE, it reaches nothing | with a loss alone, and R-net minimises its error | not measured |
    | f | in the code it falls with noise, in the paper it grows, (1 - k_t)^1.5 | as the code | below |
    | weight of the penalty | adapted: 10 at first | ``penalty_weight``, fixed | not measured |
    | log-variances | free | within -10 and 10 | not measured |
    | classifiers | the best of ten on test: of features, of what is read from them, of both | of both | not measured |
    | batches | drawn anew for every step of the critics | the same, in passes over all images | not measured |
    | attributes as networks take them | unit norm | ``condition``: the same, or standardised | not measured |

    CUB2010, ``none``, ``small``, seed 0, on test: AUSUC is 42.1 and H 48.8; with the paper's f 41.7 and 46.1; with a
    ``mutual_weight`` of 0 it is 41.6 and 48.8. One seed tells no difference. TF-VAEGAN has 40.2 and 47.2.

    On AWA1 (``none``, the same) T1 is 33.6 and calibrated H 23.8, but U only 0.8 without calibration: features that are
    generated for a class have a deviation of 0.03 in each dimension, and its images of 0.15, so that a classifier that
    knows real images of seen classes calls hardly any other image unseen. TF-VAEGAN's have 0.03 too, and U 8.2.

    A head on frozen features adds no information to them, unlike a second set that was tuned on images. ``contrast`` on
    CUB2010 (``none``, ``small``, seed 0, U and S without calibration; the last column is AUSUC on validation):

    | contrast | T1 | U | S | calibrated H | AUSUC | validation |
    | --- | --- | --- | --- | --- | --- | --- |
    | none | 57.0 | 36.9 | 72.2 | 54.1 | 42.1 | 40.6 |
    | head | 57.7 | 32.7 | 76.2 | 55.7 | 43.2 | 40.3 |
    | head, one step of R-net's critics a round | 54.7 | 1.5 | 80.6 | 49.7 | 38.7 | 38.1 |

    One seed tells no difference between the first two. In the paper, on CUB, H is 80.9 without and 81.6 with a tuned
    second set. (f-CLSWGAN reaches 79.7 on the same fine-tuned features.)
    """

    class Config(GenerativeConfig, AutoencoderSettings, CriticSettings):
        """Settings; the defaults are those of the authors' AWA2 script, the only one.

        Attributes:
            steps: steps of the diffusion.
            mutual_weight: the weight of the critics' learning from each other, beside 1 for what they learn from
                features; published as 5 beside 10.
            decoder_lr: learning rate of the semantic decoder.
            freeze_decoder: it learns from real features alone.
            contrast: a second set of features: ``none``, or those of a ``head``, a network on features.
        """

        steps: int = Field(4, ge=1)
        mutual_weight: float = Field(0.5, ge=0)
        decoder_lr: float = Field(1e-4, gt=0)
        freeze_decoder: bool = False
        # Left out of the settings at its default, so that results from before it keep their keys.
        contrast: Literal["none", "head"] = Field("none", exclude_if=lambda contrast: contrast == "none")

    config: Config

    def __init__(self, meta: Meta, config: Config, rng: torch.Generator) -> None:
        d, a, hidden = meta.n_features, meta.n_attributes, config.hidden
        told = config.contrast == "head"
        super().__init__(meta, config, rng, n_represented=d + hidden + a + told * SIZE)
        self.diffusion = Diffusion(config.steps)
        self.encoder = feature_encoder(meta, hidden, config.encoder_depth, rng)
        self.generator = FeatureGenerator(a, d + (2 + told) * a, hidden, d, config.output, rng)
        self.generator_step = StepEmbedding(config.steps, a, rng)
        self.critic = Critic(d, a, config, rng)
        self.step_critic = Critic(d, d + (2 + told) * a, config, rng)
        self.critic_step = StepEmbedding(config.steps, a, rng)
        self.decoder = SemanticDecoder(d, hidden, a, rng)
        # Without contrastive features each has none, and an embedding of none is none.
        self.contrast = ContrastiveFeatures(meta, config, config.steps, rng) if told else None
        self.contrast_critic = ContrastCritic(d, a, config, rng) if told else None
        self.generator_contrast = silu_layers(SIZE, a, rng) if told else nn.Identity()
        self.critic_contrast = silu_layers(SIZE, a, rng) if told else nn.Identity()

    def prepare(self, data: TrainData, slot: Slot, run: Run) -> Round:  # noqa: D102
        steps = self._own_steps(data, slot.or_else(self_weighted_error), run)
        if self.contrast is not None:
            further = self.contrast.prepare(data, slot, run, self.config.lr, self.config.decoder_lr)
            steps = both(steps[0], further[0]), both(steps[1], further[1])
        return Round(*steps, self.config.critic_steps)

    def _own_steps(self, data: TrainData, slot: Slot, run: Run) -> tuple[Step, Step]:
        """What a batch does to encoder, generator and decoder, and what it does to critics and decoder."""
        config, noise = self.config, run.rng("noise")
        generating = self.generator_step, self.generator_contrast
        generator_optimiser = autoencoder_adam(config.lr, self.encoder, self.generator, config, *generating)
        critics = [self.critic, self.step_critic, self.critic_step, self.critic_contrast]
        critics += [] if self.contrast_critic is None else [self.contrast_critic]
        critic_optimiser = adam(config.lr, *critics)
        decoder_optimiser = adam(config.decoder_lr, self.decoder, groups=slot.parameter_groups())
        learners = [generator_optimiser, *([] if config.freeze_decoder else [decoder_optimiser])]

        def noised(x: Tensor, y: Tensor) -> Noised:
            return Noised(*self.diffusion.draw(x, noise), data.attributes[y], self._contrast_of(x))

        def rebuild(x: Tensor, at: Noised) -> tuple[Tensor, Tensor, Tensor]:
            code, divergence = self.encoder.draw(x, at.attributes, rng=noise)
            clean = self._denoise(code, at.attributes, at.contrast, at.later, at.t)
            return clean, self.diffusion.before(clean, at.later, at.t, noise), divergence

        def train_critic(x: Tensor, y: Tensor, epoch: int) -> dict[str, Tensor]:  # noqa: ARG001
            regression = descend(slot.error(self.semantics(x), y), decoder_optimiser)
            at = noised(x, y)
            with torch.no_grad():
                clean, earlier, _ = rebuild(x, at)
            value = descend(self._critics_objective(x, clean, earlier, at, noise), critic_optimiser)
            return {"critic": value, "regression": regression}

        def train_generator(x: Tensor, y: Tensor, epoch: int) -> dict[str, Tensor]:  # noqa: ARG001
            at = noised(x, y)
            clean, earlier, divergence = rebuild(x, at)
            autoencoder = reconstruction_error(clean, x, config.output) + divergence
            criticism = self.critic(clean, at.attributes) + self.step_critic(earlier, self._circumstances(at))
            if self.contrast_critic is not None:
                criticism = criticism + self.contrast_critic(clean, at.contrast)
            value = autoencoder - config.adversarial_weight * criticism.mean() + slot(self.semantics(clean), y)
            return {"autoencoder": autoencoder.detach(), "generator": descend(value, *learners)}

        return train_generator, train_critic

    def generate(self, attributes: Tensor, rng: torch.Generator) -> Tensor:  # noqa: D102
        return self._generate(attributes, rng)[0]

    def represent(self, x: Tensor) -> Tensor:  # noqa: D102
        return self._beside(x, self._contrast_of(x))

    def unseen_data(self, data: TrainData, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """(M, R) inputs and (M,) labels of the classifiers; contrastive features are generated too."""
        labels = data.unseen.repeat_interleave(self.config.n_generated)
        return self._beside(*self._generate(data.attributes[labels], rng)), labels

    def semantics(self, x: Tensor) -> Tensor:
        """(B, A) attributes of unit norm, read from (B, D) features."""
        return self.decoder.attributes(x)

    def _contrast_of(self, x: Tensor) -> Tensor:
        """(B, R) contrastive features of images, for their (B, D) features; (B, 0) where there are none."""
        return x[:, :0] if self.contrast is None else self.contrast(x)

    def _beside(self, x: Tensor, contrast: Tensor) -> Tensor:
        """(B, R) what the classifiers take for (B, D) features and contrastive ones."""
        inputs = self.decoder.beside(x)
        return inputs if self.contrast is None else torch.cat([inputs, contrast], dim=1)

    def _generate(self, attributes: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """(B, D) features for (B, A) attributes, and the contrastive ones that they are generated from."""
        contrast = attributes[:, :0] if self.contrast is None else self.contrast.generate(attributes, rng)
        code = self.generator.draw(attributes, rng)
        later = torch.randn(len(attributes), self.meta.n_features, generator=rng, device=attributes.device)
        last = torch.full((len(attributes),), self.config.steps - 1, device=attributes.device)
        return self._denoise(code, attributes, contrast, later, last), contrast

    def _denoise(self, code: Tensor, attributes: Tensor, contrast: Tensor, later: Tensor, t: Tensor) -> Tensor:
        """(B, D) guesses of x_0 for (B, Z) codes, what goes with x_0, and (B, D) x_(t+1) of (B,) steps t."""
        told = self.generator_step.behind(t, attributes, self.generator_contrast(contrast), later)
        features: Tensor = self.generator(code, told)
        return features

    def _circumstances(self, at: Noised) -> Tensor:
        """(B, D + 2A), or (B, D + 3A), what the second critic is told beside x_t."""
        return self.critic_step.behind(at.t, at.later, at.attributes, self.critic_contrast(at.contrast))

    def _critics_objective(
        self, x: Tensor, clean: Tensor, earlier: Tensor, at: Noised, noise: torch.Generator
    ) -> Tensor:
        """What critics minimise: penalties, minus the differences W of what they think, and how these disagree."""
        compared = [
            self.critic.compared(x, clean, at.attributes, noise),
            self.step_critic.compared(at.earlier, earlier, self._circumstances(at), noise),
        ]
        if self.contrast_critic is not None:
            compared.append(self.contrast_critic.compared(x, clean, at.contrast, noise))
        differences, penalties = zip(*compared, strict=True)
        value: Tensor = self.config.penalty_weight * sum(penalties)
        for difference in differences:
            value = value - difference.mean()
        return value + self.config.mutual_weight * mutual(self.diffusion.kept[at.t], *differences)


def both(one: Step, other: Step) -> Step:
    """What does one and then the other."""
    return lambda x, y, epoch: one(x, y, epoch) | other(x, y, epoch)


def mutual(kept: Tensor, of_clean: Tensor, of_step: Tensor, of_contrast: Tensor | None = None) -> Tensor:
    """What the critics learn from each other: the ``disagreement`` of every two, f = 1 where neither sees noise.

    Args:
        kept: (B,) k_t.
        of_clean: (B,) W_0, how much more the first critic thinks of a real than of a generated feature.
        of_step: (B,) W_t, the same of the second critic, which sees noise.
        of_contrast: (B,) W_r, the same of the critic that is told contrastive features; None: there is none.
    """
    value = disagreement(of_clean, of_step, kept)
    if of_contrast is None:
        return value
    of_others = disagreement(of_clean, of_contrast, torch.ones_like(kept))
    return value + disagreement(of_contrast, of_step, kept) + of_others


def disagreement(of_clean: Tensor, of_step: Tensor, kept: Tensor) -> Tensor:
    """What two critics learn from each other: mean f ((W_0 - sg W_t)^2 + (W_t - sg W_0)^2), f = k_t^1.5.

    Args:
        of_clean: (B,) W_0, how much more one critic thinks of a real than of a generated feature.
        of_step: (B,) W_t, the same of the other.
        kept: (B,) k_t.
    """
    squares = (of_clean - of_step.detach()).square() + (of_step - of_clean.detach()).square()
    return (kept**AGREEMENT_POWER * squares).mean()
