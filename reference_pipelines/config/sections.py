"""The sections that both papers' configs have."""

from dataclasses import dataclass
from typing import Literal

from reference_pipelines.errors import require

Normalisation = tuple[tuple[float, float, float], tuple[float, float, float]]  # means and deviations of R, G and B

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
IMAGENET: Normalisation = (IMAGENET_MEAN, IMAGENET_STD)

Interpolation = Literal["bilinear", "bicubic"]
Device = Literal["auto", "cpu", "cuda", "mps"]

# What the forward pass of training computes in; "none" is single precision. (YAML reads a bare "off" as false.)
Amp = Literal["none", "float16", "bfloat16"]


@dataclass(frozen=True)
class PeopleSplit:
    """How people are split whom their data set does not split.

    Args:
        share: of the people, to be query and gallery; 0 trains on all of them, without scores.
        seed: of the draw.
    """

    share: float = 0.5
    seed: int = 0


HALVES = PeopleSplit()


@dataclass(frozen=True)
class DataConfig:
    """The images.

    Args:
        root: folder of the data set, or a CSV file; for mla any folder of images.
        layout: name of its layout; found by content when left out.
        also: further data sets, found by content, whose training images are trained on with those of root; ids and
            cameras are kept apart.
        test: a data set, found by content, whose query and gallery are tested on in place of root's.
        test_people: share of the people of a set that does not split them who become its query and gallery.
        split_seed: which people those are.
        image_size: height and width that images are resized to.
        interpolation: how they are resized.
        mean: of each channel, subtracted from pixels between 0 and 1; ImageNet's, or what the weights were made with.
        std: of each channel, that the difference is divided by.
        workers: processes that decode images; 0 decodes in the main process.
        skip_corrupt: decode every image before the run and leave out those that do not decode, instead of stopping
            at the first.
    """

    root: str
    layout: str | None = None
    also: tuple[str, ...] = ()
    test: str | None = None
    test_people: float = 0.5
    split_seed: int = 0
    image_size: tuple[int, int] = (256, 128)
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    workers: int = 4
    skip_corrupt: bool = False

    def __post_init__(self) -> None:
        require(self.root.strip() != "", "data.root must not be empty", repr(self.root))
        others = (*self.also, *(() if self.test is None else (self.test,)))
        require(all(each.strip() for each in others), "data.also and data.test must not be empty", repr(others))
        require(0 <= self.test_people < 1, "data.test_people must be at least 0 and below 1", self.test_people)
        require(self.split_seed >= 0, "data.split_seed must be at least 0", self.split_seed)
        require(
            min(self.image_size) >= 1,
            "data.image_size must be a height and a width above 0",
            self.image_size,
        )
        require(min(self.std) > 0, "data.std must be above 0", self.std)
        require(self.workers >= 0, "data.workers must be at least 0", self.workers)

    @property
    def normalisation(self) -> Normalisation:
        """Mean and standard deviation of each channel."""
        return self.mean, self.std

    @property
    def split(self) -> PeopleSplit:
        """How people are split whom their data set does not split."""
        return PeopleSplit(self.test_people, self.split_seed)


@dataclass(frozen=True)
class ModelConfig:
    """The backbone and where its weights come from.

    Args:
        backbone: torchvision's name of a classification network; timm:NAME; module:callable, which is imported and
            called, so that its code runs, and returns a network; or "resnet_demo", torchvision's ResNet class with one
            narrow bottleneck a stage.
        weights: "imagenet" (torchvision's or timm's), "none" (random), "package" (ImageNet's for
            timm:tf_efficientnet_lite0, from the extra pretrained), or where to start from: a run's folder, or a file
            of safetensors or torch.save with this backbone in it, under any names; heads are left aside, and attention
            too unless it is the same.
        last_stride: stride of the last stage, 1 or 2; both papers use 1. null leaves the backbone as it is.
        pooling: of the last map: "own", as the network does it, "average", or "gem", the generalised mean with a
            learnt exponent.
        local_parts: strips of a local branch beside the network, 2 in APNet's experiments on CUHK03: a second third and
            fourth stage of torchvision's ResNet, whose map is split along the height. Each strip's feature is trained
            like the global one, and the features are concatenated for matching. 0 is none.
        bn_chunks: parts of the batch, over all processes, whose batch norms take statistics of their own, as on that
            many devices; 1 takes them over the whole batch. Any other must divide the batch, and be divided by the
            number of processes.
    """

    backbone: str = "resnet50"
    weights: str = "imagenet"
    last_stride: int | None = 1
    pooling: Literal["own", "average", "gem"] = "own"
    local_parts: int = 0
    bn_chunks: int = 1

    def __post_init__(self) -> None:
        require(self.last_stride in (1, 2, None), "model.last_stride must be 1, 2 or null", self.last_stride)
        require(self.local_parts >= 0, "model.local_parts must be at least 0", self.local_parts)
        require(self.bn_chunks >= 1, "model.bn_chunks must be at least 1", self.bn_chunks)

    def check_normalisation(self, data: DataConfig) -> None:
        """Refuse images that are normalised otherwise than those that the packaged weights were made with.

        Raises:
            UserError: they are.
        """
        require(
            self.weights != "package" or data.normalisation == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            'data.mean and data.std must be 0.5 0.5 0.5 with model.weights "package", which were made with such images',
            data.normalisation,
        )

    def check_batch(self, images: int) -> None:
        """Refuse batches of so many images if a chunk would have less than two, or not as many as every other.

        One image has no variance, and unequal chunks would be cut otherwise by many processes than by one.

        Raises:
            UserError: they would.
        """
        require(
            images >= 2 * self.bn_chunks,
            f"sampler.ids x sampler.images must be at least 2 for each of the {self.bn_chunks} model.bn_chunks",
            images,
        )
        require(
            images % self.bn_chunks == 0,
            f"sampler.ids x sampler.images must divide into the {self.bn_chunks} model.bn_chunks without a remainder",
            images,
        )


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of a training image; the defaults are APNet-C's (released code).

    Args:
        pad: pixels of black border from which a crop of the image size is cut; 0 is off.
        enlarge: probability of enlarging by 1.125 and cropping back (APNet-S, after RGA).
        flip: probability of mirroring.
        erase: probability of erasing a rectangle, after normalisation.
        erase_area: smallest and largest part of the image that is erased.
        erase_fill: what is put in the erased place, a channel.
    """

    pad: int = 10
    enlarge: float = 0.0
    flip: float = 0.5
    erase: float = 0.5
    erase_area: tuple[float, float] = (0.02, 0.4)
    erase_fill: tuple[float, float, float] = IMAGENET_MEAN

    def __post_init__(self) -> None:
        require(self.pad >= 0, "augment.pad must be at least 0", self.pad)
        for name in ("enlarge", "flip", "erase"):
            chance = getattr(self, name)
            require(0 <= chance <= 1, f"augment.{name} must be a probability, between 0 and 1", chance)
        low, high = self.erase_area
        require(
            0 < low <= high <= 1,
            "augment.erase_area must keep 0 < smallest <= largest <= 1",
            self.erase_area,
        )


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam and its schedule.

    Args:
        learning_rate: after the warm-up.
        weight_decay: L2 penalty.
        epochs: how long to train.
        warmup_epochs: epochs over which the rate rises linearly; 0 is none.
        warmup_factor: part of the rate that the first epoch starts from.
        milestones: epochs from which on the rate is multiplied by gamma once more.
        gamma: the factor.
    """

    learning_rate: float
    weight_decay: float
    epochs: int
    warmup_epochs: int = 0
    warmup_factor: float = 0.01
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, "optimizer.learning_rate must be above 0", self.learning_rate)
        require(self.weight_decay >= 0, "optimizer.weight_decay must be at least 0", self.weight_decay)
        require(self.epochs >= 1, "optimizer.epochs must be at least 1", self.epochs)
        require(self.warmup_epochs >= 0, "optimizer.warmup_epochs must be at least 0", self.warmup_epochs)
        require(0 < self.warmup_factor <= 1, "optimizer.warmup_factor must be in (0, 1]", self.warmup_factor)
        require(self.gamma > 0, "optimizer.gamma must be above 0", self.gamma)


@dataclass(frozen=True)
class EvaluationConfig:
    """How the features are tested.

    Args:
        every: evaluate after every so many epochs; the last epoch is always evaluated.
        flip: add the features of each image and of its mirror.
        batch_size: images a batch in extraction.
        held_out: training people that are not trained on but scored on with every evaluation; held_out.safetensors has
            the weights that were best on them, chosen without the test set. Their labels are used, also by mla.
    """

    every: int = 10
    flip: bool = True
    batch_size: int = 128
    held_out: int = 0

    def __post_init__(self) -> None:
        require(self.every >= 1, "evaluation.every must be at least 1", self.every)
        require(self.batch_size >= 1, "evaluation.batch_size must be at least 1", self.batch_size)
        require(self.held_out >= 0, "evaluation.held_out must be at least 0", self.held_out)
