"""The rendering baseline: a volume that learns by being rendered, in the manner of OccNeRF (arXiv 2312.09243).

The network is EasyOcc's: images → features → voxels → 3-D CNN → 18 logits per voxel, the last one *free*. They are the
logits of one softmax, whatever trains them. Instead of being compared with labels, the volume is rendered into the
cameras. At the samples z_i of a ray (z along the optical axis):

    p_i = σ(occupied_i),  occupied = ln Σ_c exp(logit_c) − free     that the sample is not free: 1 − softmax(free)
    w_i = min(1, Σ_{j≤i} p_j) − min(1, Σ_{j<i} p_j)                 opacity = Σ w_i
    depth = Σ w_i z_i + (1 − opacity) · behind                      classes = Σ w_i · logits_i, without free

*occupied* is computed at the voxels and sampled trilinearly. As in the public implementation, class logits are sampled
once per group of neighbouring samples. What is left of a ray ends *behind* the volume: far away, or, ours, where a ray
that leads down leaves the volume through its floor, since nothing below the ground is seen.

*What decides.* A voxel is predicted free where that logit is the largest, as everywhere in this library, after a
constant was added to it: `free_offset`. So predictions follow from what was rendered: a change of the logits that no
loss sees, the same number on all 18, changes none of them. (The public implementation takes p = 1 − σ(free) from that
logit alone, and trains the classes against it by rendering all 18 logits, the sky as free. Here that was seen to fill
the sky with opaque free space, and to end all rays a metre before their cameras.)

Rendering alone does not say how dense a voxel has to be: a surface of three samples with p = 0.3 stops a ray as one of
p = 1 does. The constant does, and the training split fixes it, without labels: predictions shall begin where rays end.
With the *margin* of a place, its largest class logit minus free's, rays that end at a depth d have met the margins
m₁ = max over all samples up to one spacing before d, and m₂ = max up to one spacing behind it; thresholds between the
two make predictions begin at d. `ending_margin` is the median of (m₁ + m₂) / 2 over the rays of a key frame, and
`free_offset` its running mean over the key frames of the training, as the statistics of batch norms are.

And the same volume can be trained with labels as well, the *pseudo-loss* between the 3-D CNN and the renderer, which
trains the same softmax. Labels say themselves what is free, so the constant is 0 then.

*Contracted coordinates* (`geometry.contraction`) let the grid reach to infinity; voxels inside Occ3D's extent then
take the `inner_share` of every axis. Such a grid has no outside: every sample of every ray counts, and fog that ends
rays after twenty samples makes all of them opaque. Once Σ p exceeds 1, the opacity has no gradient, so neither has
what is asked of the sky; contracted volumes therefore start as a fog in which whole rays meet
`_FIRST_OCCUPIED_OF_RAY`. Their sky clears more slowly than that of a grid with an outside, which rays leave early.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from occlift.errors import ConfigError
from occlift.geometry.cameras import CameraRig
from occlift.geometry.contraction import contracted, expanded
from occlift.label_space import OCC3D, LabelSpace
from occlift.models.easyocc import EasyOcc, EasyOccConfig

_FIRST_OCCUPIED: Final = 0.05
"""Of every sample of an untrained volume: rays end after some twenty samples."""

_FIRST_OCCUPIED_OF_RAY: Final = 0.7
"""Of all samples of a ray together in an untrained contracted volume: no ray is opaque, every term has a gradient."""

_OCCUPIED: Final = "1 - softmax(free)"
"""What is rendered as occupied. It is recorded: a network that was trained by another rule shows something else."""

_REMEMBERED: Final = 50
"""Key frames of which `free_offset` is the mean, older ones counting less and less."""

_TINY: Final = 1e-6


@dataclass(frozen=True, kw_only=True)
class RenderingConfig:
    """What a `RenderingModel` looks like.

    Attributes:
        network: that fills the volume.
        ray_height: rows of rays per camera; they cover the whole image.
        ray_width: columns of rays.
        samples: per ray.
        reach_m: depth of the farthest sample.
        far_m: depth of what lies behind the volume, unless a ray leaves through its floor.
        class_group: samples that share one sample of the class logits; divides `samples`.
        inner_share: share of every axis of the grid that Occ3D's extent takes, the rest reaches to infinity; None: the
            grid ends with Occ3D's.
    """

    network: EasyOccConfig
    ray_height: int
    ray_width: int
    samples: int
    reach_m: float
    far_m: float = 80.0
    class_group: int = 4
    inner_share: float | None = None

    def __post_init__(self) -> None:
        if self.samples % self.class_group:
            raise ConfigError(f"class_group {self.class_group} does not divide the {self.samples} samples of a ray")
        if self.inner_share is not None and not 0 < self.inner_share < 1:
            raise ConfigError(f"inner_share must lie between 0 and 1, got {self.inner_share}")
        if self.inner_share is None and self.network.output_shape != self.space.grid.shape:
            raise ConfigError(
                f"without inner_share the grid is that of the labels: {self.space.grid.shape}, not "
                f"{self.network.output_shape}"
            )

    @property
    def space(self) -> LabelSpace:
        """Grid and classes of the logits."""
        return self.network.space

    @property
    def image_height(self) -> int:
        """Of the images given to the network, pixels."""
        return self.network.image_height

    @property
    def image_width(self) -> int:
        """The same."""
        return self.network.image_width

    @classmethod
    def demo(cls) -> RenderingConfig:
        """On the network of `EasyOccConfig.demo`, a ray for every 4×4 pixels."""
        return cls(network=EasyOccConfig.demo(), ray_height=24, ray_width=44, samples=96, reach_m=48.0)

    @classmethod
    def full(
        cls, *, pretrained: str | None = None, contracted: bool = False, space: LabelSpace = OCC3D
    ) -> RenderingConfig:
        """On the network of `EasyOccConfig.full`, with the rays of the public implementation: 180×320 per camera.

        Args:
            contracted: half as many voxels again along every axis, of which the space's extent takes two thirds, and
                rays that reach 160 m.
            space: grid and classes of the logits.
        """
        network = replace(EasyOccConfig.full(pretrained=pretrained), space=space)
        rays: dict[str, Any] = {"ray_height": 180, "ray_width": 320}
        if not contracted:
            return cls(network=network, samples=256, reach_m=51.2, **rays)
        x, y, z = (count * 3 // 2 for count in space.grid.shape)
        stretched = replace(network, grid_shape=(x, y, z))
        return cls(network=stretched, samples=256, reach_m=160.0, far_m=160.0, inner_share=2 / 3, **rays)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "network"}
        return {"network": self.network.to_dict(), "occupied": _OCCUPIED, **fields}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> RenderingConfig:
        """The inverse of `to_dict`.

        Raises:
            ConfigError: a field is missing or unknown, or the network was trained to be rendered by another rule.
        """
        fields = {name: value for name, value in plain.items() if name != "occupied"}
        if (rule := plain.get("occupied", "1 - sigmoid(free)")) != _OCCUPIED:
            raise ConfigError(
                f"a rendering model whose voxels were rendered as occupied with {rule}, which does not train what its "
                f"predictions decide; this version renders {_OCCUPIED}: train it again"
            )
        try:
            return cls(**{**fields, "network": EasyOccConfig.from_dict(plain["network"])})
        except (KeyError, TypeError) as error:
            raise ConfigError(f"not the configuration of a rendering model: {error}") from error


@dataclass(frozen=True, kw_only=True, eq=False)
class Rendering:
    """What the cameras of a rig would see.

    Attributes:
        depth_m: along the optical axis.
        opacity: 0..1, the part of the ray that ended in the volume.
        class_logits: of the semantic classes, which can be occupied.
        weights: of every sample; with 1 − opacity they add up to 1.
        z_m: depth of every sample.
        behind_m: depth of what lies behind the volume.
        spacing_m: from sample to sample.
    """

    depth_m: Float[Tensor, "batch cameras rows columns"]
    opacity: Float[Tensor, "batch cameras rows columns"]
    class_logits: Float[Tensor, "batch cameras rows columns classes"]
    weights: Float[Tensor, "batch cameras rows columns samples"]
    z_m: Float[Tensor, "batch cameras rows columns samples"]
    behind_m: Float[Tensor, "batch cameras rows columns"]
    spacing_m: Float[Tensor, "samples"]

    def with_what_lies_behind(
        self,
    ) -> tuple[
        Float[Tensor, "batch cameras rows columns stops"],
        Float[Tensor, "batch cameras rows columns stops"],
        Float[Tensor, "stops"],
    ]:
        """Weights, depths and spacing with one more sample behind the volume, so that the weights of a ray sum to 1."""
        # A ray may leave through the floor before its last samples; those have no weight, and may not come last.
        z_m = torch.cat((self.z_m.minimum(self.behind_m[..., None]), self.behind_m[..., None]), -1)
        return torch.cat((self.weights, 1 - self.opacity[..., None]), -1), z_m, F.pad(self.spacing_m, (0, 1))


class RenderingModel(nn.Module):
    """Surround images and their cameras → class logits on the Occ3D grid, and pictures of them."""

    sample_z_m: Tensor
    spacing_m: Tensor
    occ3d_in_grid: Tensor
    lower_m: Tensor
    upper_m: Tensor
    free_offset: Tensor
    decided_on: Tensor

    def __init__(self, config: RenderingConfig) -> None:
        super().__init__()
        self.config = config
        for name, corner in (("lower_m", config.space.grid.lower_m), ("upper_m", config.space.grid.upper_m)):
            self.register_buffer(name, torch.tensor(corner), persistent=False)
        share = config.inner_share
        centers_ego = None
        if share is not None:
            axes = [(torch.arange(n) + 0.5) * 2 / n - 1 for n in config.network.working_grid.shape]
            in_grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)
            centers_ego = self.lower_m + (expanded(in_grid, share) + 1) / 2 * (self.upper_m - self.lower_m)
        self.network = EasyOcc(config.network, centers_ego=centers_ego)
        edges = _sample_edges_m(config)
        self.register_buffer("sample_z_m", (edges[1:] + edges[:-1]) / 2, persistent=False)
        self.register_buffer("spacing_m", edges.diff(), persistent=False)
        occ3d = torch.from_numpy(config.space.grid.centers()).float()
        self.register_buffer("occ3d_in_grid", self._in_grid(occ3d)[None], persistent=False)
        self.register_buffer("free_offset", torch.zeros(()))
        # Number of key frames whose rays went into it.
        self.register_buffer("decided_on", torch.zeros((), dtype=torch.long))
        self._start_as_fog()

    def _start_as_fog(self) -> None:
        """The untrained volume is a thin fog; where rays met nothing at all, nothing would pull them back."""
        head = self.network.head
        occupied = _FIRST_OCCUPIED
        if self.config.inner_share is not None:
            occupied = _FIRST_OCCUPIED_OF_RAY / self.config.samples
        taxonomy = self.config.space.taxonomy
        with torch.no_grad():
            head.bias.zero_()
            # Against all semantic classes together.
            head.bias.view(-1, taxonomy.num_classes)[:, -1] = math.log(1 / occupied - 1) + math.log(taxonomy.free)

    def forward(
        self, images: Float[Tensor, "batch cameras 3 height width"], rig: CameraRig
    ) -> Float[Tensor, "batch classes label_x label_y label_z"]:
        """Logits per voxel [x, y, z] of the Occ3D grid, the largest the prediction; arguments as `EasyOcc.forward`."""
        return self.decided(self.volume(images, rig))

    def decided(
        self, volume: Float[Tensor, "batch classes x y z"]
    ) -> Float[Tensor, "batch classes label_x label_y label_z"]:
        """`occ3d_logits` with `free_offset` on that of free: the largest is the prediction."""
        logits = self.occ3d_logits(volume)
        return torch.cat((logits[:, :-1], logits[:, -1:] + self.free_offset.to(logits.dtype)), 1)

    def predicting_network(self) -> EasyOcc:
        """The network whose logits are those of `forward`: without the renderer, which only trains.

        Raises:
            ConfigError: the volume is contracted, and the network's grid is not that of the labels.
        """
        if self.config.inner_share is not None:
            raise ConfigError(
                "a contracted volume reaches beyond the grid of the labels: no network answers on it alone"
            )
        network = deepcopy(self.network)
        with torch.no_grad():
            network.head.bias.view(-1, self.config.space.taxonomy.num_classes)[:, -1] += self.free_offset
        return network

    @torch.no_grad()
    def ending_margin(
        self, volume: Float[Tensor, "1 classes x y z"], rig: CameraRig, rendering: Rendering
    ) -> Float[Tensor, ""]:
        """The margin (largest class logit minus free's) at which predictions begin where rays end; NaN where none does.

        Args:
            volume: of one key frame.
            rendering: of this volume into this rig.
        """
        origins, directions = rig.rays(self.config.ray_height, self.config.ray_width)
        in_grid = self._in_grid(
            origins[..., None, None, None, :] + rendering.z_m[..., None] * directions[..., None, :]
        )  # fmt: skip
        margins = volume[:, :-1].amax(1, keepdim=True).float() - volume[:, -1:].float()
        met = _trilinear(margins, in_grid.flatten(1, 3)[:, :, :, None])[:, 0, :, :, 0].view(rendering.z_m.shape)
        met = torch.where((in_grid.abs() < 1).all(-1), met, -torch.inf)
        from_end_m = rendering.z_m - rendering.depth_m[..., None]
        before = torch.where(from_end_m < -self.spacing_m, met, -torch.inf).amax(-1)
        behind = torch.where(from_end_m < self.spacing_m, met, -torch.inf).amax(-1)
        halfway = (before + behind)[(rendering.opacity > 0.5) & before.isfinite()] / 2
        return halfway.median() if len(halfway) else halfway.new_tensor(torch.nan)

    @torch.no_grad()
    def decide_by(self, margins: Float[Tensor, "frames"]) -> None:
        """Takes the `ending_margin` of some key frames of the training into the running mean; those of NaN are none."""
        for margin in margins[margins.isfinite()]:
            self.decided_on += 1
            self.free_offset += (margin - self.free_offset) / self.decided_on.clamp(max=_REMEMBERED)

    def volume(
        self, images: Float[Tensor, "batch cameras 3 height width"], rig: CameraRig
    ) -> Float[Tensor, "batch classes x y z"]:
        """Logits on the grid of the volume; arguments as `EasyOcc.forward`."""
        return self.network(images, rig)

    def occ3d_logits(
        self, volume: Float[Tensor, "batch classes x y z"]
    ) -> Float[Tensor, "batch classes label_x label_y label_z"]:
        """The logits of a volume, sampled trilinearly at the centres of Occ3D's voxels."""
        if self.config.inner_share is None:
            return volume
        return _trilinear(volume.float(), self.occ3d_in_grid.expand(volume.shape[0], -1, -1, -1, -1))

    def render(
        self,
        volume: Float[Tensor, "batch classes x y z"],
        rig: CameraRig,
        *,
        jitter: Float[Tensor, "batch cameras rows columns"] | None = None,
    ) -> Rendering:
        """Renders a volume into the cameras of a batched rig, `ray_height` × `ray_width` rays each.

        Args:
            volume: as the method `volume` returns it.
            jitter: moves the samples of every ray along it, in units of their spacing, −0.5 .. 0.5.
        """
        config = self.config
        volume = volume.float()
        origins, directions = rig.rays(config.ray_height, config.ray_width)
        z_m = self.sample_z_m.expand(*directions.shape[:-1], -1)
        if jitter is not None:
            z_m = z_m + jitter[..., None] * self.spacing_m
        with torch.no_grad():
            in_grid = self._in_grid(origins[..., None, None, None, :] + z_m[..., None] * directions[..., None, :])
            grouped = in_grid.view(*in_grid.shape[:-2], -1, config.class_group, 3).mean(-2)
        inside = (in_grid.abs() < 1).all(-1)
        # grid_sample wants three spatial axes: rays and samples as they come, and an axis of one.
        log_odds = _trilinear(occupied_log_odds(volume), in_grid.flatten(1, 3)[:, :, :, None])[:, 0, :, :, 0]
        occupied = torch.sigmoid(log_odds).view(inside.shape) * inside
        reached = occupied.cumsum(-1).clamp(max=1)
        weights = reached.diff(dim=-1, prepend=torch.zeros_like(reached[..., :1]))
        opacity = reached[..., -1]
        class_logits = _trilinear(volume[:, :-1], grouped.flatten(1, 3)[:, :, :, None])[..., 0]
        group_weights = weights.view(*weights.shape[:-1], -1, config.class_group).sum(-1)
        rendered = torch.einsum("bcrg,brg->brc", class_logits, group_weights.flatten(1, 3))
        behind_m = self._behind_m(origins, directions)
        return Rendering(
            depth_m=(weights * z_m).sum(-1) + (1 - opacity) * behind_m,
            opacity=opacity,
            class_logits=rendered.view(*inside.shape[:4], volume.shape[1] - 1),
            weights=weights,
            z_m=z_m,
            behind_m=behind_m,
            spacing_m=self.spacing_m,
        )

    def _behind_m(
        self, origins: Float[Tensor, "batch cameras 3"], directions: Float[Tensor, "batch cameras rows columns 3"]
    ) -> Float[Tensor, "batch cameras rows columns"]:
        downwards = directions[..., 2]
        far_m = torch.full_like(downwards, self.config.far_m)
        if self.config.inner_share is not None:  # such a volume has no floor
            return far_m
        to_floor_m = (self.lower_m[2] - origins[..., None, None, 2]) / downwards.clamp(max=-_TINY)
        return torch.where(downwards < 0, to_floor_m.minimum(far_m), far_m)

    def ends_inside(
        self, depth_m: Float[Tensor, "batch cameras rows columns"], rig: CameraRig
    ) -> Bool[Tensor, "batch cameras rows columns"]:
        """Whether a surface at this depth of each ray lies within the volume and within reach of the samples."""
        origins, directions = rig.rays(self.config.ray_height, self.config.ray_width)
        within_reach = depth_m < self.config.reach_m
        points_ego = origins[..., None, None, :] + torch.where(within_reach, depth_m, 0.0)[..., None] * directions
        return within_reach & (self._in_grid(points_ego).abs() < 1).all(-1)

    def _in_grid(self, points_ego: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
        """Ego points (metres) → coordinates of the volume's grid, −1..1 from face to face along x, y, z."""
        inner = 2 * (points_ego - self.lower_m) / (self.upper_m - self.lower_m) - 1
        return inner if self.config.inner_share is None else contracted(inner, self.config.inner_share)


def occupied_log_odds(volume: Float[Tensor, "batch classes x y z"]) -> Float[Tensor, "batch 1 x y z"]:
    """ln p/(1 − p) of the probability p that a voxel is not free, by the softmax of its logits, the last of them free.

    >>> import torch
    >>> logits = torch.tensor([0.3, 0.5, 0.2]).log()[None, :, None, None, None]
    >>> occupied_log_odds(logits).sigmoid().item()
    0.800000011920929
    """
    return volume[:, :-1].logsumexp(1, keepdim=True) - volume[:, -1:]


def _sample_edges_m(config: RenderingConfig) -> Float[Tensor, "edges"]:
    """Even in the coordinates of the grid: in metres without contraction."""
    steps = torch.linspace(0, 1, config.samples + 1)
    if config.inner_share is None:
        return steps * config.reach_m
    grid = config.space.grid
    half_edge_m = max(upper - lower for lower, upper in zip(grid.lower_m[:2], grid.upper_m[:2], strict=True)) / 2
    farthest = contracted(torch.tensor(config.reach_m / half_edge_m), config.inner_share)
    return expanded(steps * farthest, config.inner_share) * half_edge_m


def _trilinear(
    volume: Float[Tensor, "batch c x y z"], in_grid: Float[Tensor, "batch i j k 3"]
) -> Float[Tensor, "batch c i j k"]:
    """Trilinear samples at grid coordinates −1..1 along x, y, z; beyond the outermost centres the border value."""
    return F.grid_sample(volume, in_grid.flip(-1), mode="bilinear", padding_mode="border", align_corners=False)
