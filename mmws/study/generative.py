"""A small variational autoencoder of digits: data, model and metric of a study's task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor, nn
from torch.distributions import Binomial, Normal, kl_divergence
from torch.utils.data import Dataset

from mmws.registry import DATASETS, METRICS, MODELS

from .classification import load_digit_images

PIXELS = 64
DOTS = 16  # of the scanned digit, which a pixel counts: a block of 4×4


@DATASETS.register_module()
class DigitCounts(Dataset):
    """The digits of :class:`mmws.study.classification.DigitImages` as they were published.

    A pixel is a number from 0 to 16: how many dots of a block of 4×4 are set in the scanned digit.
    Items are dicts with ``inputs`` (64,), float32, the pixels of all rows.

    Args:
        split: ``'train'`` or ``'test'``.

    Raises:
        ImportError: if scikit-learn is not installed.
    """

    def __init__(self, split: str) -> None:
        self.images = load_digit_images(split)[0].flatten(1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return dict(inputs=self.images[index])


@MODELS.register_module()
class VAE(BaseModel):
    r"""A variational autoencoder of counts, with Batch Normalization.

    The encoder gives the mean and the logarithm of the variance of a normal distribution
    :math:`q(z \mid x)` with independent elements; the decoder gives the parameter of a binomial
    distribution :math:`p(x \mid z)` of 16 trials for each pixel. The loss is the negative evidence
    lower bound, the mean over images in nats,

    .. math::
        -\mathrm{ELBO}(x) = \mathrm{KL}(q(z \mid x) \,\|\, N(0, 1)) - \log p(x \mid z),
        \quad z \sim q(z \mid x)

    (`arXiv 1312.6114 <https://arxiv.org/abs/1312.6114>`_, equation 10). In evaluation, the random
    numbers that make z are those of a fixed seed, so that equal weights have equal bounds.

    Args:
        units: Units of each hidden layer.
        latents: Elements of z.
    """

    def __init__(self, units: int = 128, latents: int = 8) -> None:
        super().__init__(BaseDataPreprocessor())
        self.encoder = nn.Sequential(
            *_hidden(PIXELS, units), *_hidden(units, units), nn.Linear(units, 2 * latents)
        )
        self.decoder = nn.Sequential(
            *_hidden(latents, units), *_hidden(units, units), nn.Linear(units, PIXELS)
        )

    def forward(self, inputs: Tensor, mode: str = 'tensor') -> Any:
        """Return what ``mode`` asks for.

        Args:
            inputs: Counts (N, 64) from 0 to 16.
            mode: ``'loss'``: a dict with the mean negative bound of the images, in nats;
                ``'predict'``: a dict with the bound for each image; ``'tensor'``: the logits
                (N, 64) of the pixels for the mean of z.
        """
        mean, log_variance = self.encoder(2 * inputs / DOTS - 1).chunk(2, 1)
        if mode == 'tensor':
            return self.decoder(mean)
        generator = None if mode == 'loss' else torch.Generator(mean.device).manual_seed(0)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        bound = self.bound(inputs, mean, log_variance, noise)
        if mode == 'loss':
            return dict(loss=-bound.mean())
        return [dict(elbo=float(value)) for value in bound]

    def bound(self, inputs: Tensor, mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
        """Return the evidence lower bound of each image (N), in nats.

        Args:
            inputs: Counts (N, 64).
            mean: Of z, (N, latents).
            log_variance: Of z, in the same shape.
            noise: Standard normal numbers that make z, in the same shape.
        """
        deviation = (log_variance / 2).exp()
        logits = self.decoder(mean + deviation * noise)
        # Values are not checked: numbers that are not finite are what `DivergenceHook` reports.
        found = Binomial(DOTS, logits=logits, validate_args=False).log_prob(inputs)
        latent = Normal(mean, deviation, validate_args=False)
        standard = Normal(torch.zeros_like(mean), 1.0, validate_args=False)
        return found.sum(1) - kl_divergence(latent, standard).sum(1)


def _hidden(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]


@METRICS.register_module()
class EvidenceLowerBound(BaseMetric):
    """The mean evidence lower bound ``elbo`` of the images, in nats an image: higher is better."""

    default_prefix = 'images'

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        self.results += [sample['elbo'] for sample in data_samples]

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        return dict(elbo=float(np.mean(results)))
