"""Crack datasets exported in YOLO segmentation format, by Roboflow or for Ultralytics, as an MMSegmentation dataset."""

import colorsys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from mmengine.dist import is_main_process
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from crack_plugin.datasets.data_yaml import DataYaml, read_data_yaml
from crack_plugin.datasets.errors import DatasetError, DatasetNotFoundError, PipelineError
from crack_plugin.datasets.foreground import describe_absence, find_absent
from crack_plugin.datasets.masks import check_threshold
from crack_plugin.datasets.names import count_suffixes, listed, warn
from crack_plugin.datasets.photographs import with_refusals
from crack_plugin.datasets.polygons import MAX_CLASSES, Boxes, Outside, check_boxes, check_outside
from crack_plugin.datasets.yolo_layout import Annotations, SplitFiles, find_split

MissingLabel = Literal['background', 'error']


def foreground_palette(count: int) -> list[list[int]]:
    """RGB colours for ``count`` foreground classes: red, then the other hues at equal distances."""
    colors = [colorsys.hsv_to_rgb(i / count, 1, 1) for i in range(count)]
    return [[round(255 * channel) for channel in color] for color in colors]


@DATASETS.register_module()
class YOLOCrackDataset(BaseSegDataset):
    """Images with YOLO polygon labels, as exported by Roboflow or laid out for Ultralytics.

    ``LoadYOLOPolygons`` in the pipeline rasterises the labels: the background is label 0, and YOLO id i is label
    i + 1.

    The files of a split are found through ``data.yaml``, if it is there and names the split: an entry is a folder
    (with its subfolders), a ``.txt`` list of images, or a list of those, relative to the yaml's ``path`` or to the
    yaml itself; Roboflow's ``../train/images`` is also tried as ``train/images``. Otherwise the split is
    ``{split}/images`` or ``images/{split}``. The label of an image is found by replacing the last folder named
    ``images`` in its path by ``labels``. Without a ``data.yaml``, the class names are those in ``classes.txt``.

    A split in whose labels a foreground class does not occur is a warning in the log, see ``find_absent``.

    Args:
        data_root: Folder of the dataset, or its yaml file.
        split: 'train', 'val', 'test' or any other the dataset has; 'val' and 'valid' mean the same. 'all' is all of a
            dataset without splits: ``images`` and ``labels``, or images and labels in one folder.
        classes: Names of the foreground classes. The ``names`` in ``data.yaml`` have to be these, or the first of
            them, in the same order; upper and lower case do not matter.
        missing_label: An image without a label file is all 'background' (one line in the log tells how many are), or
            an 'error'.
        boxes: A detection box among the polygons is an 'error', 'fill' draws it as a rectangle, 'drop' leaves it out.
        class_map: Name in ``data.yaml`` to name in ``classes``, or to None to leave its polygons out. It lets several
            names be one class; names it does not mention stand for themselves. Names that are numbers, as in Roboflow's
            ``names: ['0']``, may be written as numbers.
        annotations: 'polygons', or 'masks': the label of an image is the file of its name (PNG, JPEG, BMP, TIFF or
            WebP, see ``read_mask``) in the folder ``masks``, in the place of the folder ``images``, or beside the
            images, see ``find_split``. Masks have one class, whatever the ``names`` in ``data.yaml`` are.
        outside: A polygon that reaches more than one pixel out of its image is an 'error', or 'clip' cuts it at the
            edge.
        mask_suffix: What follows the image's name in the mask's: '_mask' for ``NAME_mask.png``.
        mask_threshold: For masks with grey levels or soft edges: levels above are foreground. None: such masks are
            errors.
        metainfo: As in ``BaseSegDataset``: with a selection of ``classes``, the others are ignored (label 255).
        pipeline: As in ``BaseSegDataset``.
        indices: As in ``BaseSegDataset``.
        serialize_data: As in ``BaseSegDataset``.
        test_mode: As in ``BaseSegDataset``.
        lazy_init: As in ``BaseSegDataset``; the disk is not read before ``full_init``.

    Raises:
        DatasetNotFoundError: A folder, a split, its images or, with ``missing_label='error'``, a label is missing.
        DatasetError: An argument or ``data.yaml`` is wrong, or they contradict each other.
    """

    METAINFO = {'classes': ('background', 'crack'), 'palette': [[0, 0, 0], *foreground_palette(1)]}

    def __init__(
        self,
        data_root: str | Path,
        split: str = 'train',
        classes: Sequence[str] = ('crack',),
        missing_label: MissingLabel = 'background',
        boxes: Boxes = 'error',
        class_map: Mapping[str, str | None] | None = None,
        annotations: Annotations = 'polygons',
        outside: Outside = 'error',
        mask_suffix: str = '',
        mask_threshold: int | None = None,
        metainfo: Mapping[str, Any] | None = None,
        pipeline: Sequence[dict | Callable] = (),
        indices: int | Sequence[int] | None = None,
        serialize_data: bool = True,
        test_mode: bool = False,
        lazy_init: bool = False,
    ) -> None:
        check_boxes(boxes)
        check_outside(outside)
        if missing_label not in get_args(MissingLabel):
            raise DatasetError(f"missing_label={missing_label!r} is not known: 'background' or 'error'")
        if annotations not in get_args(Annotations):
            raise DatasetError(f"annotations={annotations!r} is not known: 'polygons' or 'masks'")
        if annotations == 'masks' and (len(classes) != 1 or class_map):
            raise DatasetError("annotations='masks' has one class: set one name as `classes`, and no class_map")
        if annotations != 'masks' and (mask_suffix or mask_threshold is not None):
            raise DatasetError("mask_suffix and mask_threshold are for annotations='masks'")
        check_threshold(mask_threshold)
        self.split = split
        self.foreground = _checked_classes(classes)
        self.class_map = class_map
        self.missing_label = missing_label
        self.annotations = annotations
        self.mask_suffix = mask_suffix
        self.mask_threshold = mask_threshold
        self.boxes = boxes
        self.outside = outside
        # By YOLO id, the same for all samples; known once data.yaml has been read.
        self._yolo_names: list[str] = []
        self._yolo_labels: list[int | None] = []
        own_metainfo = {
            'classes': ('background', *self.foreground),
            'palette': [[0, 0, 0], *foreground_palette(len(self.foreground))],
        }
        super().__init__(
            data_root=str(data_root),
            data_prefix={},
            metainfo={**own_metainfo, **(metainfo or {})},
            pipeline=list(pipeline),
            indices=indices,
            serialize_data=serialize_data,
            test_mode=test_mode,
            lazy_init=lazy_init,
        )
        self.pipeline.transforms = with_refusals(self.pipeline.transforms)

    def get_label_map(self, new_classes: Sequence[str] | None = None) -> dict[int, int] | None:
        """As in ``BaseSegDataset``, but compared with the classes of this instance.

        Returns:
            Label to its label among ``new_classes``, 255 for a class that is not among them; None if nothing changes.

        Raises:
            DatasetError: A new class is none of the dataset's.
        """
        old_classes = ['background', *self.foreground]
        if new_classes is None or list(new_classes) == old_classes:
            return None
        unknown = [name for name in new_classes if name not in old_classes]
        if unknown:
            raise DatasetError(
                f'metainfo names the classes {unknown}, but the dataset has {old_classes}, and metainfo can only '
                'select among them. Set `classes` (the foreground names) instead.'
            )
        new_labels = {name: label for label, name in enumerate(new_classes)}
        return {label: new_labels.get(name, 255) for label, name in enumerate(old_classes)}

    def full_init(self) -> None:
        """As in ``BaseSegDataset``; then warn of foreground classes that do not occur."""
        if self._fully_initialized:
            return
        super().full_init()
        if is_main_process():
            self._warn_of_absent_classes()

    def load_data_list(self) -> list[dict[str, str]]:
        """Find the split's images and labels.

        Returns:
            ``img_path`` and ``label_path`` of each image, in the order of the image paths. ``get_data_info`` adds
            what all samples share.
        """
        data_yaml = read_data_yaml(Path(self.data_root))
        if self.annotations == 'polygons':  # masks have no class ids that the names could be of
            self._yolo_names, self._yolo_labels = _match_classes(data_yaml, self.foreground, self.class_map)
        files = find_split(data_yaml, self.split, self.annotations, self.mask_suffix)
        self._check_completeness(files)
        return [{'img_path': image, 'label_path': label} for image, label in files.pairs]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """As in ``BaseSegDataset``: all the pipeline has to know of one sample."""
        info = super().get_data_info(idx)
        info.update(
            missing_label=self.missing_label,
            annotations=self.annotations,
            mask_threshold=self.mask_threshold,
            boxes=self.boxes,
            outside=self.outside,
            yolo_names=self._yolo_names,
            yolo_labels=self._yolo_labels,
            label_map=self.label_map,
            reduce_zero_label=self.reduce_zero_label,
            seg_map_path=None,
            seg_fields=[],
        )
        return info

    def prepare_data(self, idx: int) -> Any:
        """Run the pipeline on one sample.

        Raises:
            ImageError: The image is refused, see ``read_photograph``.
            PipelineError: The pipeline returned nothing. (``BaseDataset`` would put another sample in its place.)
        """
        info = self.get_data_info(idx)
        data = self.pipeline(info)
        if data is None:
            raise PipelineError(
                f'the pipeline returned nothing for {info["img_path"]}: a transform refused the sample, for instance '
                'LoadImageFromFile(ignore_empty=True). Remove that option, or the sample.'
            )
        return data

    def _warn_of_absent_classes(self) -> None:
        classes = self.metainfo['classes']
        absent, looked_at = find_absent(self.get_data_info, len(self), range(1, len(classes)))
        if absent:
            images = f'{looked_at} images'
            if looked_at < len(self):
                images = f'the {looked_at} of {len(self)} images looked at'
            names = [classes[label] for label in absent]
            warn(f'split {self.split!r} of {self.data_root}: {describe_absence(names, classes[1:], images)}')

    def _check_completeness(self, files: SplitFiles) -> None:
        """Report what does not fit together, or refuse it."""
        where = f'split {self.split!r} of {self.data_root}'
        without = f'{len(files.unlabelled)} of {len(files.pairs)} images have no label file'
        if files.unlabelled and self.missing_label == 'error':
            raise DatasetNotFoundError(
                f'{where}: {without}: {listed(files.unlabelled)}. Add them (empty files if nothing is to be seen), or '
                "set missing_label='background'."
            )
        if files.unlabelled:
            warn(f'{where}: {without} and are taken as background')
        if files.orphans:
            warn(f'{where}: {len(files.orphans)} label files belong to no image and are not used')
        if files.others:
            warn(f'{where}: files that are no images are not used ({count_suffixes(files.others)})')


def _checked_classes(classes: Sequence[str]) -> tuple[str, ...]:
    if isinstance(classes, str):
        raise DatasetError(f'classes={classes!r} is one string, not a list of names: write classes=({classes!r},)')
    if not 0 < len(classes) <= MAX_CLASSES:
        raise DatasetError(f'classes has {len(classes)} names: one to {MAX_CLASSES} are possible')
    if len({name.casefold() for name in classes}) < len(classes):
        raise DatasetError(f'classes={tuple(classes)} names a class twice (upper and lower case do not matter)')
    if 'background' in classes:
        raise DatasetError(f"classes={tuple(classes)}: 'background' is added by the dataset, name the foreground only")
    return tuple(classes)


def _match_classes(
    data_yaml: DataYaml, classes: Sequence[str], class_map: Mapping[str, str | None] | None
) -> tuple[list[str], list[int | None]]:
    """The class names by YOLO id, and the label that each id is drawn as (None: left out)."""
    if class_map is None:
        _check_agreement(data_yaml, classes)
        names = list(classes) if data_yaml.names is None else data_yaml.names
        return names, list(range(1, len(names) + 1))
    if data_yaml.names is None:
        raise DatasetError(f'class_map maps the `names` in {data_yaml.file}, but there are none. Write them there.')
    names = data_yaml.names
    if not isinstance(class_map, Mapping):
        raise DatasetError(
            f"class_map={class_map!r}: give a dict, name to class, such as {{'Crack': 'crack', 'scale bar': None}}."
        )
    class_map = {str(name): target for name, target in class_map.items()}
    unknown = [name for name in class_map if name not in names]
    if unknown:
        raise DatasetError(f'class_map maps {unknown}, but the names in {data_yaml.file} are {names}. Correct one.')
    labels: dict[str | None, int | None] = {name.casefold(): label for label, name in enumerate(classes, start=1)}
    labels[None] = None
    targets = [class_map.get(name, name) for name in names]
    keys = [None if target is None else str(target).casefold() for target in targets]
    lost = [name for name, key in zip(names, keys, strict=True) if key not in labels]
    if lost:
        raise DatasetError(
            f'class_map leads {lost} of {data_yaml.file} to none of the classes {tuple(classes)}. Map each to one of '
            'them, or to None to leave its polygons out.'
        )
    return names, [labels[key] for key in keys]


def _check_agreement(data_yaml: DataYaml, classes: Sequence[str]) -> None:
    names = data_yaml.names
    if names is None:
        count = data_yaml.content.get('nc')
        if isinstance(count, int) and count > len(classes):
            raise DatasetError(f'{data_yaml.file}: `nc` is {count}, but classes={tuple(classes)}. Name all classes.')
        return
    folded = [name.casefold() for name in classes]
    if [name.casefold() for name in names] == folded[: len(names)]:
        return
    known = dict(zip(folded, classes, strict=True))
    beyond = [name for name in names if name.casefold() not in known]
    # Without a matching name, the suggestion maps all names to the class rather than none.
    other = classes[0] if len(classes) == 1 and len(beyond) == len(names) else None
    remedy = (
        'Say what each name stands for (None leaves its polygons out), for instance '
        f'class_map={ {name: known.get(name.casefold(), other) for name in names} }'
    )
    if len({name.casefold() for name in names}) < len(names):
        fault = f'the names {names} are not one for each of'
    else:
        fault = f'the names {beyond} are not among' if beyond else f'the names {names} are in another order than'
        remedy += f', or name the classes as the file does: classes={tuple(names)}'
    raise DatasetError(f"{data_yaml.file}: {fault} the dataset's classes={tuple(classes)}. {remedy}.")
