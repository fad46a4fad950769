import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmseg.datasets.transforms import PackSegInputs
from mmseg.registry import DATASETS
from torch._utils import ExceptionWrapper

from crack_plugin.datasets import ImageError, LabelError, LoadYOLOPolygons, YOLOCrackDataset

PIPELINE = [LoadImageFromFile(), LoadYOLOPolygons(), PackSegInputs()]
# Left half: class 0. Right half: class 1.
HALVES = '0 0 0 0.4 0 0.4 1 0 1\n1 0.5 0 1 0 1 1 0.5 1\n'


def make_dataset(root: Path, label: str = '0 0 0 1 0 1 1 0 1\n', count: int = 3, names: str | None = None) -> Path:
    """``count`` images of 16 x 8 pixels with the same label, in grey 0, 1, 2, ..."""
    for folder in ('images', 'labels'):
        (root / 'train' / folder).mkdir(parents=True)
    for i in range(count):
        cv2.imwrite(str(root / 'train' / 'images' / f'{i}.png'), np.full((8, 16, 3), i, np.uint8))
        (root / 'train' / 'labels' / f'{i}.txt').write_text(label)
    if names is not None:
        (root / 'data.yaml').write_text(f'train: ../train/images\nnames: {names}')
    return root


@pytest.fixture
def root(tmp_path) -> Path:
    return make_dataset(tmp_path / 'cracks')


def labels_of(dataset: YOLOCrackDataset, index: int = 0) -> np.ndarray:
    return dataset[index]['data_samples'].gt_sem_seg.data[0].numpy()


def test_sample_is_what_mmseg_expects(root):
    dataset = DATASETS.build({'type': 'YOLOCrackDataset', 'data_root': str(root), 'pipeline': PIPELINE})
    assert len(dataset) == 3
    sample = dataset[1]
    assert sample['inputs'].shape == (3, 8, 16)
    assert (sample['inputs'] == 1).all()
    assert sample['data_samples'].gt_sem_seg.data.dtype == torch.int64
    assert (labels_of(dataset) == 1).all()
    assert sample['data_samples'].img_path == f'{root}/train/images/1.png'
    assert sample['data_samples'].reduce_zero_label is False


def test_metainfo():
    assert YOLOCrackDataset.METAINFO['classes'] == ('background', 'crack')
    metainfo = YOLOCrackDataset('nowhere', classes=['crack', 'spalling', 'rust'], lazy_init=True).metainfo
    assert metainfo['classes'] == ('background', 'crack', 'spalling', 'rust')
    assert metainfo['palette'] == [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert metainfo['label_map'] is None


def test_data_info(root):
    info = YOLOCrackDataset(root).get_data_info(0)
    assert info['label_path'] == f'{root}/train/labels/0.txt'
    assert info['seg_map_path'] is None
    assert info['seg_fields'] == []
    assert info['reduce_zero_label'] is False


def test_yolo_id_becomes_label_plus_one(tmp_path):
    dataset = YOLOCrackDataset(make_dataset(tmp_path, HALVES), classes=('crack', 'spalling'), pipeline=PIPELINE)
    labels = labels_of(dataset)
    assert (labels[:, :7] == 1).all()
    assert (labels[:, 8:] == 2).all()
    with pytest.raises(LabelError, match=r"0\.txt, line 2: unknown class id '1'"):
        YOLOCrackDataset(tmp_path, pipeline=PIPELINE)[0]


@pytest.mark.parametrize('names', ['[crack, Spalling]', '{0: Crack, 1: spalling}', '[crack]'])
def test_names_that_agree(tmp_path, names):
    dataset = YOLOCrackDataset(make_dataset(tmp_path, names=names), classes=('crack', 'spalling'), pipeline=PIPELINE)
    assert (labels_of(dataset) == 1).all()


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        ('[crack, spalling, rust]', r"the names \['rust'\] are not among the dataset's classes"),
        ('[spalling, crack]', r'in another order'),
        ('[cracks]', r"class_map=\{'cracks': None\}"),
        ('[crack, Crack]', r"are not one for each of .* class_map=\{'crack': 'crack', 'Crack': 'crack'\}\.$"),
    ],
)
def test_names_that_disagree(tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        YOLOCrackDataset(make_dataset(tmp_path, names=names), classes=('crack', 'spalling'))


def test_names_of_a_class_list_are_those_of_data_yaml(tmp_path):
    make_dataset(tmp_path)
    (tmp_path / 'classes.txt').write_text('Riss\n')
    with pytest.raises(ValueError, match=r"classes\.txt: the names \['Riss'\] .* class_map=\{'Riss': 'crack'\}"):
        YOLOCrackDataset(tmp_path)
    assert labels_of(YOLOCrackDataset(tmp_path, class_map={'Riss': 'crack'}, pipeline=PIPELINE)).any()


def test_clipping_reaches_the_transform(tmp_path):
    make_dataset(tmp_path, '0 0 0 1.5 0 1.5 1 0 1')
    assert labels_of(YOLOCrackDataset(tmp_path, outside='clip', pipeline=PIPELINE)).all()
    with pytest.raises(LabelError, match="outside='clip' of the dataset"):
        YOLOCrackDataset(tmp_path, pipeline=PIPELINE)[0]


@pytest.mark.parametrize('class_map', [{'0': 'crack'}, {0: 'crack'}])
def test_names_that_are_numbers(tmp_path, class_map):
    make_dataset(tmp_path, names="['0']")
    assert (labels_of(YOLOCrackDataset(tmp_path, class_map=class_map, pipeline=PIPELINE)) == 1).all()
    with pytest.raises(ValueError, match=r"for instance class_map=\{'0': 'crack'\}"):
        YOLOCrackDataset(tmp_path)


def test_more_classes_than_named_without_names(tmp_path):
    make_dataset(tmp_path)
    (tmp_path / 'data.yaml').write_text('nc: 2')
    with pytest.raises(ValueError, match='`nc` is 2'):
        YOLOCrackDataset(tmp_path)


@pytest.mark.parametrize(
    ('class_map', 'expected'),
    [
        ({'Crack': 'crack', 'cracks': 'crack'}, [1, 1]),
        ({'cracks': 'crack'}, [1, 1]),
        ({'cracks': None}, [1, 0]),
        ({'Crack': None, 'cracks': 'crack'}, [0, 1]),
    ],
)
def test_class_map_merges_and_leaves_out(tmp_path, class_map, expected):
    make_dataset(tmp_path, HALVES, names='[Crack, cracks]')
    labels = labels_of(YOLOCrackDataset(tmp_path, class_map=class_map, pipeline=PIPELINE))
    assert [labels[0, 0], labels[0, -1]] == expected


def test_spellings_of_one_class_are_merged(tmp_path):
    thirds = ''.join(f'{i} {x} 0 {x + 0.2} 0 {x + 0.2} 1 {x} 1\n' for i, x in enumerate((0, 0.4, 0.8)))
    make_dataset(tmp_path, thirds, names='[crack, Crack, cracks]')
    dataset = YOLOCrackDataset(tmp_path, class_map={'Crack': 'crack', 'cracks': 'crack'}, pipeline=PIPELINE)
    assert labels_of(dataset)[0].tolist() == [1] * 4 + [0] * 2 + [1] * 5 + [0] * 2 + [1] * 3


def test_class_map_can_reorder(tmp_path):
    make_dataset(tmp_path, HALVES, names='[a, b]')
    labels = labels_of(YOLOCrackDataset(tmp_path, classes=('b', 'a'), class_map={}, pipeline=PIPELINE))
    assert [labels[0, 0], labels[0, -1]] == [2, 1]


@pytest.mark.parametrize(
    ('class_map', 'message'),
    [
        ({'crack': 'crack'}, r"class_map leads \['other'\] .* to none of the classes"),
        ({'crack': 'rust', 'other': None}, r"class_map leads \['crack'\]"),
        ({'gap': None}, r"class_map maps \['gap'\], but the names"),
    ],
)
def test_faulty_class_map(tmp_path, class_map, message):
    with pytest.raises(ValueError, match=message):
        YOLOCrackDataset(make_dataset(tmp_path, names='[crack, other]'), class_map=class_map)


def test_class_map_needs_names(root):
    with pytest.raises(ValueError, match=r'maps the `names` in .*data\.yaml, but there are none'):
        YOLOCrackDataset(root, class_map={'crack': None})


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'classes': 'crack'}, r"write classes=\('crack',\)"),
        ({'classes': ()}, '0 names'),
        ({'classes': ('crack', 'Crack')}, 'twice'),
        ({'classes': ('background', 'crack')}, 'added by the dataset'),
        ({'classes': [str(i) for i in range(255)]}, '255 names: one to 254'),
        ({'missing_label': 'skip'}, "missing_label='skip' is not known"),
        ({'boxes': 'keep'}, "boxes='keep' is not known"),
        ({'outside': 'cut'}, "outside='cut' is not known"),
        ({'metainfo': {'classes': ('background', 'rust')}}, r"\['rust'\], but the dataset has"),
    ],
)
def test_faulty_argument_before_the_disk_is_read(options, message):
    with pytest.raises(ValueError, match=message):
        YOLOCrackDataset('nowhere', lazy_init=True, **options)


def test_missing_labels_are_background_and_reported_in_one_line(root, log):
    for i in (0, 2):
        (root / f'train/labels/{i}.txt').unlink()
    (root / 'train/labels/9.txt').touch()
    dataset = YOLOCrackDataset(root, pipeline=PIPELINE)
    assert [labels_of(dataset, i).any() for i in range(3)] == [False, True, False]
    assert log == [
        f"split 'train' of {root}: 2 of 3 images have no label file and are taken as background",
        f"split 'train' of {root}: 1 label files belong to no image and are not used",
    ]


def test_complete_dataset_says_nothing(root, log):
    YOLOCrackDataset(root)
    assert log == []


def test_files_of_other_formats_are_reported(root, log):
    (root / 'train/images/a.gif').touch()
    assert len(YOLOCrackDataset(root)) == 3
    assert log == [f"split 'train' of {root}: files that are no images are not used (1 .gif)"]


def test_missing_label_can_be_an_error(root):
    (root / 'train/labels/1.txt').unlink()
    with pytest.raises(FileNotFoundError, match=r'1 of 3 images have no label file: .*train/images/1\.png\.'):
        YOLOCrackDataset(root, missing_label='error')


def test_arguments_by_position(tmp_path):
    make_dataset(tmp_path, '0 0.5 0.5 1 1')
    (tmp_path / 'train/labels/2.txt').unlink()
    dataset = YOLOCrackDataset(tmp_path, 'train', ('crack',), 'background', 'fill', pipeline=PIPELINE)
    assert [labels_of(dataset, i).all() for i in range(3)] == [True, True, False]
    with pytest.raises(FileNotFoundError, match='1 of 3 images have no label file'):
        YOLOCrackDataset(tmp_path, 'train', ('crack',), 'error', 'fill')


def test_boxes_reach_the_transform(tmp_path):
    make_dataset(tmp_path, '0 0.5 0.5 1 1')
    assert labels_of(YOLOCrackDataset(tmp_path, boxes='fill', pipeline=PIPELINE)).all()
    with pytest.raises(LabelError, match='detection box'):
        YOLOCrackDataset(tmp_path, pipeline=PIPELINE)[0]


@pytest.mark.parametrize('test_mode', [False, True])
@pytest.mark.parametrize('content', [b'', b'no image', 'half'], ids=['empty', 'garbage', 'truncated'])
def test_undecodable_image_is_named(root, content, test_mode):
    image = root / 'train/images/1.png'
    image.write_bytes(image.read_bytes()[:60] if content == 'half' else content)
    dataset = YOLOCrackDataset(root, pipeline=PIPELINE, test_mode=test_mode)
    with pytest.raises(ImageError, match=r'train/images/1\.png cannot be decoded'):
        dataset[1]


def test_undecodable_image_with_the_pillow_backend(root):
    (root / 'train/images/1.png').write_bytes(b'no image')
    dataset = YOLOCrackDataset(root, pipeline=[LoadImageFromFile(imdecode_backend='pillow')])
    with pytest.raises(ImageError, match=r'1\.png cannot be decoded'):
        dataset[1]


def test_assertion_of_another_transform_is_left_alone(root):
    def fail(results):
        raise AssertionError('crop too large')

    with pytest.raises(AssertionError, match=r'^crop too large$'):
        YOLOCrackDataset(root, pipeline=[LoadImageFromFile(), fail])[0]


@pytest.mark.parametrize('error_type', [ImageError, LabelError])
def test_message_survives_a_data_loader_worker(error_type):
    try:
        raise error_type('image 0.png cannot be decoded')
    except error_type:
        from_worker = ExceptionWrapper(where='in a worker')
    with pytest.raises(error_type, match=r'image 0\.png cannot be decoded'):
        from_worker.reraise()


def test_no_other_sample_takes_the_place_of_a_refused_one(root):
    (root / 'train/images/1.png').write_bytes(b'')
    dataset = YOLOCrackDataset(root, pipeline=[LoadImageFromFile(ignore_empty=True), LoadYOLOPolygons()])
    with pytest.raises(RuntimeError, match=r'returned nothing for .*1\.png'):
        dataset[1]


def test_wrapped_datasets(tmp_path):
    first = YOLOCrackDataset(make_dataset(tmp_path / 'a', names='[crack]'), pipeline=PIPELINE)
    second = YOLOCrackDataset(
        make_dataset(tmp_path / 'b', count=2, names='[Riss]'), class_map={'Riss': 'crack'}, pipeline=PIPELINE
    )
    joined = RepeatDataset({'type': ConcatDataset, 'datasets': [first, second]}, times=2)
    assert len(joined) == 10
    assert joined.metainfo['classes'] == ('background', 'crack')
    assert joined[9]['data_samples'].img_path == f'{tmp_path}/b/train/images/1.png'
    assert (joined[9]['data_samples'].gt_sem_seg.data == 1).all()


@pytest.mark.parametrize('serialize_data', [True, False])
def test_indices_and_subset(root, serialize_data):
    dataset = YOLOCrackDataset(root, indices=[2, 0], pipeline=PIPELINE, serialize_data=serialize_data)
    assert [Path(dataset.get_data_info(i)['img_path']).name for i in range(2)] == ['2.png', '0.png']
    subset = dataset.get_subset([1])
    assert len(subset) == 1
    assert (subset[0]['inputs'] == 0).all()
    assert (labels_of(subset) == 1).all()


def test_lazy_init_reads_the_disk_on_demand(tmp_path):
    dataset = YOLOCrackDataset(tmp_path / 'later', lazy_init=True, pipeline=PIPELINE)
    make_dataset(tmp_path / 'later')
    assert len(dataset) == 3
    assert (labels_of(dataset) == 1).all()


def test_metainfo_selects_classes_as_in_base_seg_dataset(tmp_path):
    dataset = YOLOCrackDataset(
        make_dataset(tmp_path, HALVES),
        classes=('crack', 'spalling'),
        metainfo={'classes': ('background', 'spalling')},
        pipeline=PIPELINE,
    )
    assert dataset.metainfo['palette'] == [[0, 0, 0], [0, 255, 255]]
    labels = labels_of(dataset)
    assert [labels[0, 0], labels[0, -1]] == [255, 1]


def test_metainfo_can_set_the_palette():
    metainfo = {'palette': [[0, 0, 0], [1, 2, 3]]}
    assert YOLOCrackDataset('nowhere', metainfo=metainfo, lazy_init=True).metainfo['palette'] == metainfo['palette']


def test_survives_pickling(root):
    dataset = pickle.loads(pickle.dumps(YOLOCrackDataset(root, pipeline=PIPELINE)))
    assert (labels_of(dataset, 2) == 1).all()
