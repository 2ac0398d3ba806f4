"""Losses of rendered images: photometric, smoothness, classes, depth, entropy, distortion.

*Photometric* (Godard et al., *Digging into self-supervised monocular depth estimation*, ICCV 2019): the error between
an image and a neighbour warped into it is 0.85 · (1 − SSIM)/2 + 0.15 · L1, SSIM over 3×3 windows; per pixel the least
error over the neighbours counts, and only where it is smaller than that of the neighbours as they are (auto-mask: what
does not change, such as the ego vehicle, says nothing about depth).

*Smoothness* (the same): |∂ d*| · exp(−|∂ I|) along both image axes, d* the inverse depth over its mean.

*Entropy of the last alpha* (OccNeRF): −o·log o − (1−o)·log(1−o) of the opacity o of every ray: a ray ends, or it does
not.

*Distortion* (Barron et al., *Mip-NeRF 360*, CVPR 2022, eq. 15): Σ_ij w_i w_j |m_i − m_j| + ⅓ Σ_i w_i² δ_i, for samples
at m with spacing δ: weight gathers in one place.

All are means over pixels or rays, and take tensors of one or several frames.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

_TINY = 1e-6


def photometric_error(
    image: Float[Tensor, "n 3 height width"], other: Float[Tensor, "n 3 height width"]
) -> Float[Tensor, "n height width"]:
    """0.85 · (1 − SSIM)/2 + 0.15 · L1 per pixel; colours in [0, 1]."""
    return 0.85 * structural_dissimilarity(image, other).mean(1) + 0.15 * (image - other).abs().mean(1)


def structural_dissimilarity(
    image: Float[Tensor, "n c height width"], other: Float[Tensor, "n c height width"]
) -> Float[Tensor, "n c height width"]:
    """(1 − SSIM)/2 per pixel and colour, in [0, 1], over 3×3 windows with equal weights, mirrored at the border.

    SSIM as defined by Wang et al. (2004) with C1 = 0.01², C2 = 0.03² for colours in [0, 1].
    """
    stacked = torch.cat((image, other, image * image, other * other, image * other), 1)
    means = F.avg_pool2d(F.pad(stacked, (1, 1, 1, 1), mode="reflect"), 3, stride=1)
    a, b, aa, bb, ab = means.chunk(5, 1)
    luminance = (2 * a * b + 0.01**2) / (a * a + b * b + 0.01**2)
    structure = (2 * (ab - a * b) + 0.03**2) / ((aa - a * a) + (bb - b * b) + 0.03**2)
    return ((1 - luminance * structure) / 2).clamp(0, 1)


def photometric_loss(
    image: Float[Tensor, "n 3 height width"],
    warped: Float[Tensor, "n k 3 height width"],
    visible: Bool[Tensor, "n k height width"],
    neighbours: Float[Tensor, "n k 3 height width"],
    exists: Bool[Tensor, "n k"],
) -> Float[Tensor, ""]:
    """Minimum over k neighbours and over the neighbours as they are; the mean over the pixels, 0 without neighbours.

    A pixel that looks better unmoved, or that no neighbour sees, keeps the error of the unmoved neighbour: it has no
    gradient, and no depth is rewarded for hiding it.

    Args:
        image: colours in [0, 1].
        warped: the neighbours, warped into the image.
        visible: where the warped neighbour shows something.
        neighbours: the same images as they are.
        exists: which neighbours there are; at the ends of a scene one is missing.
    """
    k = warped.shape[1]
    target = image.repeat_interleave(k, 0)
    there = exists[:, :, None, None]
    error = photometric_error(target, warped.flatten(0, 1)).view(-1, k, *image.shape[2:])
    error = torch.where(visible & there, error, torch.inf).amin(1)
    with torch.no_grad():
        unmoved = photometric_error(target, neighbours.flatten(0, 1)).view(-1, k, *image.shape[2:])
        unmoved = torch.where(there, unmoved, torch.inf).amin(1)
    least = torch.minimum(error, unmoved)
    counted = least.isfinite()
    return torch.where(counted, least, 0.0).sum() / counted.sum().clamp(min=1)


def smoothness_loss(
    depth_m: Float[Tensor, "n height width"], image: Float[Tensor, "n 3 height width"]
) -> Float[Tensor, ""]:
    """Edge-aware smoothness of the inverse depth, relative to its mean over the image."""
    inverse = 1 / depth_m.clamp(min=_TINY)
    inverse = inverse / inverse.mean((1, 2), keepdim=True)
    along_x = inverse.diff(dim=2).abs() * (-image.diff(dim=3).abs().mean(1)).exp()
    along_y = inverse.diff(dim=1).abs() * (-image.diff(dim=2).abs().mean(1)).exp()
    return along_x.mean() + along_y.mean()


def rendered_class_loss(
    logits: Float[Tensor, "rays classes"],
    opacity: Float[Tensor, "rays"],
    classes: Int[Tensor, "rays"],
    weights: Float[Tensor, "classes+1"],
) -> Float[Tensor, ""]:
    """Cross-entropy of rendered classes; of rays into the sky, −log(1 − opacity): nothing stands in their way.

    Args:
        logits: of the classes that can be occupied, without free.
        classes: 0 .. classes−1; `classes` for the sky; anything larger is unknown and takes no part.
        weights: of the classes, and of the sky.

    Returns:
        The weighted mean over the rays that show something known; 0 without any.
    """
    num_classes = logits.shape[1]
    surface, known = classes < num_classes, classes <= num_classes
    weight = weights[classes.clamp(max=num_classes)] * known
    of_surface = F.cross_entropy(logits, torch.where(surface, classes, 0), reduction="none")
    of_sky = -(1 - opacity).clamp(min=_TINY).log()
    loss = torch.where(surface, of_surface, of_sky)
    return (weight * torch.where(known, loss, 0.0)).sum() / weight.sum().clamp(min=_TINY)


def rendered_depth_loss(
    depth_m: Float[Tensor, "*rays"],
    opacity: Float[Tensor, "*rays"],
    target_m: Float[Tensor, "*rays"],
    ends_inside: Bool[Tensor, "*rays"],
) -> Float[Tensor, ""]:
    """|ln depth − ln target| where the target lies in the rendered volume, −log(1 − opacity) where it lies behind it.

    Args:
        target_m: along the optical axis; NaN where nothing is known, +inf where there is nothing.
        ends_inside: whether the target lies in the volume.

    Returns:
        The mean over the rays with a target; 0 without any.
    """
    known = ~target_m.isnan()
    target = torch.where(known & ends_inside, target_m, 1.0).clamp(min=_TINY)
    error = (depth_m.clamp(min=_TINY).log() - target.log()).abs()
    loss = torch.where(ends_inside, error, -(1 - opacity).clamp(min=_TINY).log())
    return torch.where(known, loss, 0.0).sum() / known.sum().clamp(min=1)


def last_alpha_entropy(opacity: Float[Tensor, "*rays"]) -> Float[Tensor, ""]:
    """Entropy (nats) of whether a ray ends, mean over the rays."""
    inside = opacity.clamp(_TINY, 1 - _TINY)
    return -(inside * inside.log() + (1 - inside) * (1 - inside).log()).mean()


def distortion_loss(
    weights: Float[Tensor, "*rays samples"], middle: Float[Tensor, "*rays samples"], spacing: Float[Tensor, "samples"]
) -> Float[Tensor, ""]:
    """Σ_ij w_i w_j |m_i − m_j| + ⅓ Σ_i w_i² δ_i, mean over the rays; in time linear in the samples.

    Args:
        middle: of the samples, ascending along the ray.
        spacing: from sample to sample, the same unit.
    """
    # Σ_ij w_i w_j |m_i − m_j| = 2 Σ_i w_i (m_i Σ_{j<i} w_j − Σ_{j<i} w_j m_j) for ascending m.
    moment = weights * middle
    before = weights.cumsum(-1) - weights
    moment_before = moment.cumsum(-1) - moment
    between = 2 * (moment * before - weights * moment_before).sum(-1)
    within = (weights.square() * spacing).sum(-1) / 3
    return (between + within).mean()
