"""The sections of a recipe: what can be set, its range and its default. Names are unique over all sections.

The defaults are the AISTATS paper's (Heinonen et al. 2025; the released code's option defaults).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from mollify_core.augment.names import SOFT, canonical
from mollify_core.datasets.specs import IMAGE_SIDES, colour_word
from mollify_core.errors import ConfigError
from mollify_core.foreign import shown

SINK_MODES = ("la", "lm")
LABEL_MODES = ("ls", "ld", *SINK_MODES)
LOSSES = ("ce", "bce", "nce")
LABEL_SOURCES = ("schedule", "nmi")
BALANCES = ("none", "sampling", "loss")
CONSTANTS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""Mean and standard deviation of the images on which published weights were trained, by the scaling's name."""
SCALINGS = ("normal", "uniform", *CONSTANTS)
PRECISIONS = ("float32", "bf16")
OPTIMIZERS = ("sgd", "adamw")
METHODS = ("none", "mollification", "matching", *sorted(SOFT))
LABELS = ("hard", "fixed", "coupled", "uncoupled")
SPREADS = ("all", "others")
SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST_PIXELS = 4096  # a side
MAGNITUDES = 31
"""Of each operation of TrivialAugment."""
TRIVIALAUGMENT = {
    **dict.fromkeys(("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"), 2),
    **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), 2),
    **dict.fromkeys(("Posterize", "Solarize"), 1),
    **dict.fromkeys(("Identity", "AutoContrast", "Equalize"), 0),
}
"""The operations of TrivialAugment, and in how many directions they have magnitudes."""


def check(ok: bool, name: str, expected: str, got: object) -> None:
    """Raises a ConfigError that says what was expected of a setting, then what came."""
    if not ok:
        raise ConfigError(f"Expected `{name}` to be {expected}, but got {shown(got)}")


def check_mode_and_loss(mode: str, loss: str) -> None:
    """Raises a ConfigError unless the loss goes with the label mode: nce is a likelihood of smoothed labels only."""
    check(mode in LABEL_MODES, "label_mode", f"one of {LABEL_MODES}", mode)
    check(loss in LOSSES, "loss", f"one of {LOSSES}", loss)
    if loss == "nce" and mode != "ls":
        raise ConfigError(f"Expected label_mode 'ls' for loss 'nce', but got {shown(mode)}")


def check_distortions(blur_sigma: float, blur_kernel: float, patch_size: float, mosaic_power: float) -> None:
    """Raises a ConfigError unless these can be what strength 1 of the distortions means."""
    check(0 < blur_sigma < math.inf, "blur_sigma", "positive", blur_sigma)
    check(0 < blur_kernel < _MOST_PIXELS and blur_kernel % 2 == 1, "blur_kernel", "a positive odd integer", blur_kernel)
    check(0 < patch_size <= _MOST_PIXELS and patch_size % 1 == 0, "patch_size", "a positive integer", patch_size)
    check(0 < mosaic_power < math.inf, "mosaic_power", "positive", mosaic_power)


@dataclass(frozen=True)
class Data:
    """Which images are trained on, and how they are scaled.

    Attributes:
        dataset: name in `mollify_core.datasets`, or of a folder of images of one's own.
        image_size: side in pixels to which the images of such a folder are scaled; None for the sets that have one.
        background: what shows where images of such a folder are transparent: "white", "grey", "black" or "#rrggbb".
        validation_fraction: share of the official training images held out for validation, in (0, 0.5]; of no effect
            for a folder of images with a split of its own for that.
        judging_fraction: share of the validation images that only judge: they choose nothing and stop nothing; in
            [0, 0.9]. With 0 all images choose, and judge too.
        split_seed: seed of the stratified splits into fit and validation, and of validation into choosing and judging.
        train_fraction: share of the fit images that are used, stratified, in (0, 1].
        scaling: "normal" subtracts the data set's mean and divides by its standard deviation; "uniform" maps [0, 1] to
            [-1, 1]; "imagenet" and "clip" have the constants of published weights.
        augment: image augmentations, names in `mollify_core.augment.AUGMENTATIONS`, applied in that order.
        balance: how classes with few fit images are made up for: "none"; "sampling", an epoch draws as many images as
            there are, with replacement, each class equally often; "loss", the loss of an image is divided by the
            number of its class, relative to the mean.
    """

    dataset: str = "cifar10"
    image_size: int | None = None
    validation_fraction: float = 0.1
    judging_fraction: float = 0.0
    split_seed: int = 0
    train_fraction: float = 1.0
    scaling: str = "normal"
    augment: tuple[str, ...] = ("flip", "crop")
    background: str = "white"
    balance: str = "none"

    def __post_init__(self) -> None:
        least, most = IMAGE_SIDES
        fits = self.image_size is None or least <= self.image_size <= most
        check(fits, "image_size", f"at least {least} and at most {most}", self.image_size)
        object.__setattr__(self, "background", colour_word(self.background))
        check(0 < self.validation_fraction <= 0.5, "validation_fraction", "in (0, 0.5]", self.validation_fraction)
        check(0 <= self.judging_fraction <= 0.9, "judging_fraction", "in [0, 0.9]", self.judging_fraction)
        check(0 < self.train_fraction <= 1, "train_fraction", "in (0, 1]", self.train_fraction)
        check(self.split_seed >= 0, "split_seed", "a non-negative integer", self.split_seed)
        check(self.scaling in SCALINGS, "scaling", f"one of {SCALINGS}", self.scaling)
        object.__setattr__(self, "augment", canonical(self.augment))
        check(self.balance in BALANCES, "balance", f"one of {BALANCES}", self.balance)


@dataclass(frozen=True)
class Model:
    """The network.

    Attributes:
        network: name in `mollify_core.networks`; `torchvision/NAME`; `timm/NAME` with the extra `timm`; or a network of
            one's own, `FILE.py:FACTORY` or `MODULE:FACTORY`, see `mollify_core.networks.own`.
        network_sha256: of the code of a network of one's own.
        network_kwargs: further arguments of a library's network or one's own, each as "name=value".
        weights: what training starts from: "none", the network's own initialisation; "default", the weights that its
            library has published; or the name of a file.
        weights_sha256: of these weights, as `mollify_core.networks.weights` keeps them.
        final_bn: presnet*: the usual batch norm and ReLU before pooling, which the paper's networks lack.
        published: googlenet, wrn28_4: the released code's odd batch-norm constants.
    """

    network: str = "presnet50"
    final_bn: bool = False
    published: bool = False
    network_kwargs: tuple[str, ...] = ()
    network_sha256: str = ""
    weights: str = "none"
    weights_sha256: str = ""

    def __post_init__(self) -> None:
        for name in ("network_sha256", "weights_sha256"):
            value = getattr(self, name)
            check(not value or SHA256.fullmatch(value) is not None, name, "64 hexadecimal digits, or empty", value)


@dataclass(frozen=True)
class Mollify:
    """The mollification schedule: how an image is degraded at time t in [0, 1] and its label with it.

    Attributes:
        p_clean: share of training images left clean, in [0, 1].
        noise_share: share of noise among the degraded images (what no share names is blurred), in [0, 1].
        both_share: share blurred, then noised at the same time (the paper's pseudo-code), in [0, 1].
        pure_share: share replaced by pure noise at full label strength (role "e" of the released code), in [0, 1].
        beta_a, beta_b: t ~ Beta(beta_a, beta_b), both positive.
        max_noise: noise level sigma at t = 1, in (0, 1].
        min_blur: blur scale at t = 0 in pixels, positive.
        max_blur: blur scale at t = 1 in pixels, at least `min_blur`; None is the image side.
        noise_power, blur_power: k_n, k_b: how fast the label follows the degradation, positive.
        smoothing: factor in [0, 1] on every coupled label strength; 0 keeps hard labels.
        label_source: where the strength of coupled labels comes from: the "schedule", or the "nmi" that the degradation
            leaves between the image and its original (with the settings of `Matching`).
        label_mode: "ls", "ld", "la" or "lm", see `mollify_core.labels`.
        loss: "ce", "bce" or "nce" (with "ls" only).
        repeat: copies of an image in a step, each with its own role, time and noise; images per step stay the same.
    """

    p_clean: float = 1 / 3
    noise_share: float = 0.5
    both_share: float = 0.0
    pure_share: float = 0.0
    beta_a: float = 1.0
    beta_b: float = 2.0
    max_noise: float = 1.0
    min_blur: float = 0.3
    max_blur: float | None = None
    noise_power: float = 1.0
    blur_power: float = 1.0
    smoothing: float = 1.0
    label_source: str = "schedule"
    label_mode: str = "ls"
    loss: str = "ce"
    repeat: int = 1

    def __post_init__(self) -> None:
        for name in ("p_clean", "noise_share", "both_share", "pure_share", "smoothing"):
            check(0 <= getattr(self, name) <= 1, name, "in [0, 1]", getattr(self, name))
        shares = self.noise_share + self.both_share + self.pure_share
        check(shares <= 1 + 1e-9, "noise_share + both_share + pure_share", "at most 1", shares)
        for name in ("beta_a", "beta_b", "min_blur", "noise_power", "blur_power"):
            check(getattr(self, name) > 0, name, "positive", getattr(self, name))
        check(0 < self.max_noise <= 1, "max_noise", "in (0, 1]", self.max_noise)
        if self.max_blur is not None:
            check(self.max_blur >= self.min_blur, "max_blur", f"at least min_blur = {self.min_blur}", self.max_blur)
        check(self.label_source in LABEL_SOURCES, "label_source", f"one of {LABEL_SOURCES}", self.label_source)
        check_mode_and_loss(self.label_mode, self.loss)
        check(self.repeat >= 1, "repeat", "a positive integer", self.repeat)
        check(self.repeat <= 2**20, "repeat", f"at most {2**20}", self.repeat)


@dataclass(frozen=True)
class Matching:
    """Information matching (Bonilla Salvador 2025): the label follows the information that a distortion leaves.

    Attributes:
        p_undistorted: share of images left as they are, in [0, 1]; the paper's is 0.
        fixed_epsilon: epsilon of the label "fixed", with every method, in [0, 1].
        max_epsilon, epsilon_scale, epsilon_power: epsilon = min(max_epsilon, epsilon_scale (1 - NMI)^epsilon_power);
            the first two in [0, 1], the power positive.
        spread: where epsilon goes: to "all" classes (the released code) or the "others" only (the paper's text).
        bins: of the histograms, 2 to 256.
        use_all_bins, constants_match, corrected: see `mollify_core.matching.nmi.normalized_mutual_information`.
        blur_sigma, blur_kernel, patch_size, mosaic_power: what strength 1 means, see
            `mollify_core.matching.distortions.Distortions`.
    """

    p_undistorted: float = 0.0
    fixed_epsilon: float = 0.1
    max_epsilon: float = 0.9
    epsilon_scale: float = 1.0
    epsilon_power: float = 1.0
    spread: str = "all"
    bins: int = 64
    use_all_bins: bool = False
    constants_match: bool = True
    corrected: bool = False
    blur_sigma: float = 50.0
    blur_kernel: int = 51
    patch_size: int = 8
    mosaic_power: float = 2.0

    def __post_init__(self) -> None:
        check(self.spread in SPREADS, "spread", f"one of {SPREADS}", self.spread)
        for name in ("p_undistorted", "fixed_epsilon", "max_epsilon", "epsilon_scale"):
            check(0 <= getattr(self, name) <= 1, name, "in [0, 1]", getattr(self, name))
        check(self.epsilon_power > 0, "epsilon_power", "positive", self.epsilon_power)
        check(2 <= self.bins <= 256, "bins", "from 2 to 256", self.bins)
        check_distortions(self.blur_sigma, self.blur_kernel, self.patch_size, self.mosaic_power)


@dataclass(frozen=True)
class Soft:
    """Soft augmentation (Liu et al. 2023, Siedel et al. 2025): the label follows the strength of an augmentation.

    The confidence that is left of a label is 1 - (1 - floor) m^power, where m in [0, 1] is what the augmentation took:
    the share of the image that a crop or an erased rectangle hides, the share under noise times the noise's deviation,
    the magnitude of TrivialAugment's operation. See `mollify_core.augment.soft`.

    Attributes:
        crop_deviation: standard deviation of the soft crop's offsets as a share of the side, positive.
        crop_power, erasing_power, patch_power, trivialaugment_power: exponents of m, positive.
        erasing_probability: share of the images in which a rectangle is erased, in [0, 1].
        erasing_area: largest share of the image that is erased, in (0.02, 1).
        patch_side: side of the window under noise as a share of the image's, in (0, 1]; with 1 it is the whole image.
        patch_deviation: largest standard deviation of the noise, of white, in [0, 1].
        min_confidence: the floor, in [0, 1]; None is the released code's: chance, 1 / C of C classes, and for patch
            noise 0.3. No label falls below chance.
        confidence_table: confidences at each operation and magnitude of soft TrivialAugment in place of the rule, as
            `python -m mollify_core.soften` measures them: "ShearX 0.95 0.94 ..." with 31 values or, for an operation
            without magnitude, one; "-ShearX" in the other direction. Operations that are left out follow the rule.
        reweight: each image's loss is multiplied by the confidence of its target.
    """

    crop_deviation: float = 0.3
    crop_power: float = 2.0
    erasing_probability: float = 0.3
    erasing_area: float = 0.33
    erasing_power: float = 1.0
    patch_side: float = 0.8
    patch_deviation: float = 1.0
    patch_power: float = 2.0
    trivialaugment_power: float = 2.0
    min_confidence: float | None = None
    confidence_table: tuple[str, ...] = ()
    reweight: bool = False

    def __post_init__(self) -> None:
        for name in ("crop_deviation", "crop_power", "erasing_power", "patch_power", "trivialaugment_power"):
            check(getattr(self, name) > 0, name, "positive", getattr(self, name))
        for name in ("erasing_probability", "patch_deviation", "min_confidence"):
            check(0 <= (getattr(self, name) or 0) <= 1, name, "in [0, 1]", getattr(self, name))
        check(0.02 < self.erasing_area < 1, "erasing_area", "in (0.02, 1)", self.erasing_area)
        check(0 < self.patch_side <= 1, "patch_side", "in (0, 1]", self.patch_side)
        parse_confidences(self.confidence_table)


def parse_confidences(table: tuple[str, ...]) -> dict[str, tuple[float, ...]]:
    """A `confidence_table` as numbers: operation, with "-" before it in the other direction -> 31 values or one.

    Raises:
        ConfigError: an operation is unknown or given twice, or its confidences are not as many numbers in [0, 1].
    """
    parsed: dict[str, tuple[float, ...]] = {}
    for line in table:
        name, *words = line.split() or [""]
        plain = name.removeprefix("-")
        check(plain in TRIVIALAUGMENT, "confidence_table", f"lines that begin with one of {TRIVIALAUGMENT}", line[:40])
        check(name not in parsed, "confidence_table", f"one line for {name}", "two")
        try:
            values = tuple(float(word) for word in words)
        except ValueError:
            values = ()
        wanted = MAGNITUDES if TRIVIALAUGMENT[plain] else 1
        told = f"{wanted} numbers in [0, 1] for {name}"
        check(len(values) == wanted and all(0 <= v <= 1 for v in values), "confidence_table", told, line[:40])
        check(name == plain or TRIVIALAUGMENT[plain] == 2, "confidence_table", f"no other direction of {plain}", name)
        parsed[name] = values
    return parsed


@dataclass(frozen=True)
class Optim:
    """Optimisation: by default SGD with momentum, cosine decay per epoch to zero.

    Attributes:
        epochs: passes over the fit images, from 1 to a million.
        batch_size: images per step over all workers together, from 1 to 2**20.
        optimizer: "sgd" or "adamw".
        lr: learning rate of the first epoch, positive.
        final_lr: what the decay tends to, in [0, lr].
        warmup_epochs: epochs of linear warm-up from 0, step by step, before the decay; less than `epochs`.
        momentum: of SGD, in [0, 1).
        nesterov: Nesterov momentum.
        weight_decay: L2 factor on all parameters (decoupled with "adamw"), at least 0.
        label_smoothing: the baseline's fixed smoothing of every label, before any other, in [0, 1].
        clip_norm: largest norm of the gradient; None clips nothing.
        head_lr_factor: learning rate of the last layer, which gives the logits, as a multiple of the others'; positive.
        frozen_epochs: epochs at the beginning in which the last layer learns alone: other weights, and the statistics
            of BatchNorm, stay; at most `epochs`.
        frozen_bn: BatchNorm keeps the statistics that it starts with, as is usual in fine-tuning.
        ema: decay per step of an average of the weights that is evaluated in their place, in [0, 1); 0 is off.
        precision: "float32" (never TF32), or "bf16" autocast of the network where the device has units for it
            (degradation is always float32).
        compile: compile the network with `torch.compile`, once (up to a minute at the start); a smaller last step
            goes without, so that its numbers differ by rounding.
    """

    epochs: int = 200
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.01
    final_lr: float = 0.0
    warmup_epochs: int = 0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    head_lr_factor: float = 1.0
    frozen_epochs: int = 0
    frozen_bn: bool = False
    ema: float = 0.0
    precision: str = "bf16"
    compile: bool = False

    def __post_init__(self) -> None:
        check(self.epochs >= 1, "epochs", "a positive integer", self.epochs)
        check(self.batch_size >= 1, "batch_size", "a positive integer", self.batch_size)
        for name, most in (("epochs", 1_000_000), ("batch_size", 2**20)):
            check(getattr(self, name) <= most, name, f"at most {most}", getattr(self, name))
        check(self.optimizer in OPTIMIZERS, "optimizer", f"one of {OPTIMIZERS}", self.optimizer)
        check(self.lr > 0, "lr", "positive", self.lr)
        check(0 <= self.final_lr <= self.lr, "final_lr", f"in [0, lr = {self.lr:g}]", self.final_lr)
        check(0 <= self.warmup_epochs < self.epochs, "warmup_epochs", "at least 0 and below epochs", self.warmup_epochs)
        check(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
        check(not self.nesterov or self.momentum > 0, "nesterov", "false when momentum is 0", self.nesterov)
        check(self.weight_decay >= 0, "weight_decay", "at least 0", self.weight_decay)
        check(0 <= self.label_smoothing <= 1, "label_smoothing", "in [0, 1]", self.label_smoothing)
        check(self.clip_norm is None or self.clip_norm > 0, "clip_norm", "positive", self.clip_norm)
        check(self.head_lr_factor > 0, "head_lr_factor", "positive", self.head_lr_factor)
        wanted = f"at least 0 and at most epochs = {self.epochs}"
        check(0 <= self.frozen_epochs <= self.epochs, "frozen_epochs", wanted, self.frozen_epochs)
        check(0 <= self.ema < 1, "ema", "in [0, 1)", self.ema)
        check(self.precision in PRECISIONS, "precision", f"one of {PRECISIONS}", self.precision)
