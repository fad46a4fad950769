import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from crack_plugin.datasets import yolo_layout
from crack_plugin.datasets.data_yaml import is_unsplit, read_data_yaml
from crack_plugin.datasets.names import count_suffixes
from crack_plugin.datasets.yolo_layout import SplitFiles, find_split


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(root: Path, split: str = 'train') -> SplitFiles:
    return find_split(read_data_yaml(root), split)


def relative_pairs(root: Path, files: SplitFiles) -> list[tuple[str, ...]]:
    return [tuple(str(Path(path).relative_to(root)) for path in pair) for pair in files.pairs]


@pytest.mark.parametrize(
    ('images', 'labels'), [('train/images', 'train/labels'), ('images/train', 'labels/train')], ids=['split', 'images']
)
def test_folder_layouts(tmp_path, images, labels):
    touch(tmp_path, f'{images}/b.JPG', f'{images}/a.rf.1.png', f'{images}/sub/c.tiff', f'{labels}/b.txt')
    assert relative_pairs(tmp_path, found(tmp_path)) == [
        (f'{images}/a.rf.1.png', f'{labels}/a.rf.1.txt'),
        (f'{images}/b.JPG', f'{labels}/b.txt'),
        (f'{images}/sub/c.tiff', f'{labels}/sub/c.txt'),
    ]


@pytest.mark.parametrize('on_disk', ['val', 'valid'])
@pytest.mark.parametrize('asked', ['val', 'valid'])
@pytest.mark.parametrize('in_yaml', [True, False])
def test_val_and_valid_are_the_same_split(tmp_path, on_disk, asked, in_yaml):
    folder = 'holdout' if in_yaml else on_disk
    touch(tmp_path, f'{folder}/images/a.jpg', f'{folder}/labels/a.txt')
    if in_yaml:
        (tmp_path / 'data.yaml').write_text(f'{on_disk}: holdout/images')
    assert len(found(tmp_path, asked).pairs) == 1


@pytest.mark.parametrize(
    'content',
    [
        'train: train/images',
        'train: ./train/images/',
        'train: ../train/images',  # Roboflow's way, though the folder is beside the yaml
        'train: train',
        'train: [train/images]',
        'train: {root}/train/images',
        'path: {root}\ntrain: train/images',
        'path: .\ntrain: train/images',
        'path: /no/such/folder\ntrain: train/images',
        'path: C:\\data\\export\ntrain: train\\images',
        'train: export/train/images',  # Roboflow's Python package
        'train: crack-3/train/images',  # and the folder has been renamed
        'train: /content/crack-3/train/images',
        'train: /content/images/crack-3/train/images',
        'train: /content/crack-3/train',
        'train: C:\\Users\\me\\crack-3\\train\\images',
        'train: ..\\train\\images',
        'train: ../datasets/crack-3/train/images/',
        'train: /content/crack-3/train.txt',
        'train: train.txt',
        'val: elsewhere',
    ],
)
def test_data_yaml_entries(tmp_path, content):
    root = tmp_path / 'export'
    touch(root, 'train/images/a.jpg', 'train/labels/a.txt', 'train/masks/a.png')
    (root / 'train.txt').write_text('./train/images/a.jpg\n')
    (root / 'data.yaml').write_text(content.format(root=root))
    files = found(root)
    assert len(files.pairs) == 1
    image, label = files.pairs[0]
    assert Path(image).samefile(root / 'train/images/a.jpg')
    assert Path(label).samefile(root / 'train/labels/a.txt')
    assert files.unlabelled == []


def test_folder_above_the_yaml(tmp_path):
    touch(tmp_path, 'train/images/a.jpg', 'train/labels/a.txt')
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'configs' / 'cracks.yaml').write_text('train: ../train/images')
    image, label = found(tmp_path / 'configs' / 'cracks.yaml').pairs[0]
    assert Path(image).samefile(tmp_path / 'train/images/a.jpg')
    assert Path(label).samefile(tmp_path / 'train/labels/a.txt')


def test_entry_that_may_mean_two_folders(tmp_path):
    touch(tmp_path, 'train/images/a.jpg', 'export/train/images/b.jpg', 'export/train/labels/b.txt')
    (tmp_path / 'export/data.yaml').write_text('train: ../train/images')
    with pytest.raises(ValueError, match=r'`train: ../train/images` may mean .*, and both exist'):
        found(tmp_path / 'export')
    (tmp_path / 'export/data.yaml').write_text(f'train: {tmp_path}/export/train/images')
    assert len(found(tmp_path / 'export').pairs) == 1


@pytest.mark.parametrize('entry', ['/content/crack-3/train/images', 'C:\\x\\train\\images', 'crack-3/train/images'])
def test_a_path_of_another_machine_is_reported(tmp_path, log, entry):
    touch(tmp_path, 'train/images/a.jpg', 'train/labels/a.txt')
    (tmp_path / 'data.yaml').write_text(f'train: {entry}')
    assert len(found(tmp_path).pairs) == 1
    (message,) = log
    assert f'does not exist here, {tmp_path}/train/images is taken for it' in message


@pytest.mark.parametrize(
    ('entry', 'others'),
    [
        ('/content/crack-3/train/images', ['images/a.jpg', 'labels/a.txt']),
        ('/content/crack-3/images/train', ['images/val/a.jpg', 'train/a.jpg']),
        ('/content/crack-3/fold1/images', ['images/a.jpg', 'labels/a.txt']),
        ('/content/train/crack-3/images', ['images/a.jpg']),
        ('crack-3/train/images', ['valid/images/a.jpg', 'test/images/a.jpg']),
    ],
)
def test_another_folder_is_not_taken_for_one_of_another_machine(tmp_path, entry, others):
    touch(tmp_path, *others)
    (tmp_path / 'data.yaml').write_text(f'train: {entry}')
    with pytest.raises(FileNotFoundError, match='leads to no folder'):
        found(tmp_path)


@pytest.mark.parametrize('entry', ['/content/crack-3/train/images', 'export/train/images', '..\\train\\images'])
def test_a_path_of_another_machine_that_may_mean_two_folders(tmp_path, entry):
    root = tmp_path / 'export'
    touch(root, 'train/images/a.jpg', 'crack-3/train/images/b.jpg', 'export/train/images/c.jpg')
    touch(tmp_path, 'train/images/d.jpg')
    (root / 'data.yaml').write_text(f'train: {entry}')
    with pytest.raises(ValueError, match='and both exist'):
        found(root)


def test_a_list_of_another_machine(tmp_path, log):
    root = tmp_path / 'export'
    touch(root, 'obj_train_data/a.jpg', 'obj_train_data/a.txt', 'obj_train_data/b.jpg', 'obj_train_data/b.txt')
    (root / 'data.yaml').write_text('train: train.txt')
    for place in ('data/', '/content/export/', 'C:\\export\\', './data/'):
        (root / 'train.txt').write_text(f'{place}obj_train_data/a.jpg\n{place}obj_train_data/b.jpg\n')
        assert [Path(image).name for image, _ in found(root).pairs] == ['a.jpg', 'b.jpg']
    assert len(log) == 4
    (root / 'train.txt').write_text('data/obj_train_data/a.jpg\nother/obj_train_data/b.jpg\n')
    with pytest.raises(FileNotFoundError, match='lists 2 images that do not exist'):
        found(root)


@pytest.mark.parametrize(
    ('images', 'labels'), [('images', 'labels'), ('.', '.'), ('images/site', 'labels/site')], ids=str
)
def test_a_dataset_without_splits(tmp_path, images, labels):
    touch(tmp_path, f'{images}/a.jpg', f'{images}/b.JPG', f'{labels}/a.txt', 'notes.json', 'masks/a.png')
    (tmp_path / 'classes.txt').write_bytes(b'\xef\xbb\xbfcrack\r\nscale bar\r\n\r\n')
    data_yaml = read_data_yaml(tmp_path)
    assert data_yaml.names == ['crack', 'scale bar']
    assert is_unsplit(data_yaml)
    files = found(tmp_path, 'all')
    assert [Path(image).name for image, _ in files.pairs] == ['a.jpg', 'b.JPG']
    assert [Path(image).name for image in files.unlabelled] == ['b.JPG']
    assert files.orphans == []
    for split in ('train', 'val'):
        with pytest.raises(FileNotFoundError) as error:
            found(tmp_path, split)
        assert_message(error, [f'no split {split!r}', f'python tools/split_dataset.py {tmp_path} NEW_FOLDER', "'all'"])


@pytest.mark.parametrize('names', [['train/images/a.jpg'], ['images/val/a.jpg'], ['valid/a.jpg'], ['notes.json']])
def test_what_is_not_without_splits(tmp_path, names):
    touch(tmp_path, *names)
    assert not is_unsplit(read_data_yaml(tmp_path))
    touch(tmp_path, 'images/b.jpg')
    (tmp_path / 'data.yaml').write_text('train: images')
    assert not is_unsplit(read_data_yaml(tmp_path))


def test_classes_beside_the_labels(tmp_path):
    touch(tmp_path, 'images/a.jpg', 'labels/a.txt')
    (tmp_path / 'labels/classes.txt').write_text('rust\ncrack')
    assert read_data_yaml(tmp_path).names == ['rust', 'crack']
    assert found(tmp_path, 'all').orphans == []


@pytest.mark.parametrize(
    ('content', 'message'),
    [(b'', 'line 1: no class name'), (b'a\n\nb\n', 'line 2: no class name'), (b'Ri\xdf', 'cannot be read')],
)
def test_faulty_class_list(tmp_path, content, message):
    (tmp_path / 'classes.txt').write_bytes(content)
    with pytest.raises(ValueError, match=rf'classes\.txt.*{message}'):
        read_data_yaml(tmp_path)


def test_split_folder_without_a_folder_images(tmp_path):
    touch(tmp_path, 'train/a.jpg', 'train/a.txt', 'valid/b.jpg', 'valid/_annotations.coco.json')
    assert relative_pairs(tmp_path, found(tmp_path)) == [('train/a.jpg', 'train/a.txt')]
    with pytest.raises(FileNotFoundError, match=r'look like labels: .*_annotations\.coco\.json.*convert_coco_to_yolo'):
        found(tmp_path, 'val')


def test_labels_beside_images_in_a_folder_of_that_name(tmp_path, log):
    touch(tmp_path, 'images/a.jpg', 'images/a.txt', 'images/b.jpg')
    assert found(tmp_path, 'all').unlabelled == [str(tmp_path / 'images/b.jpg')]
    (message,) = log
    assert 'the labels beside the images' in message


@pytest.mark.parametrize(
    'others',
    [
        ['a_mask.png'],
        ['a_mask.png', 'a.txt'],
        ['a-GT.bmp', 'a.txt'],
        ['a_label_2.tif', 'a.txt'],
        ['mask_a.png', 'a.txt'],
        ['a.jpg_segmentation.png', 'a.txt'],
        ['a_crack_mask.png', 'a.txt'],
        ['a_gtFine_labelIds.png', 'a.txt'],
        ['seg_mask_a.png', 'a.txt'],
        ['masks/a.png', 'a.txt'],
        ['b.jpg', 'b.txt', 'a.jpg.json'],
        ['b.jpg', 'b.txt', 'a.jpg.txt'],
        ['a.png'],
        ['a.png', 'a.txt'],
        ['a.json'],
        ['a.xml'],
        ['b.jpg', 'b.txt', 'a.json'],
        ['classes.txt'],
        ['_annotations.coco.json'],
    ],
    ids=' '.join,
)
def test_other_labels_beside_the_images_are_an_error(tmp_path, others):
    touch(tmp_path, 'pictures/a.jpg', *(f'pictures/{name}' for name in others))
    (tmp_path / 'data.yaml').write_text('train: pictures')
    stray = next(name for name in others if name not in ('a.txt', 'b.jpg', 'b.txt'))
    with pytest.raises(FileNotFoundError, match=rf'look like (masks of others|labels): {tmp_path}/pictures/{stray}\.'):
        found(tmp_path)


def test_masks_among_the_images_are_an_error(tmp_path):
    touch(tmp_path, 'train/images/a.jpg', 'train/images/a_mask.png', 'train/labels/a.txt')
    with pytest.raises(FileNotFoundError, match=r'1 of the 2 images look like masks of others: .*/a_mask\.png'):
        found(tmp_path)


@pytest.mark.parametrize(
    'others',
    [
        ['a.txt', 'a.json', 'a.xml', 'classes.txt', 'instances.json'],
        ['a.txt', 'b.jpg', 'c.gif', 'Thumbs.db'],
        ['a.txt', 'wall_mask.png', 'a_2.png', 'a_slab.png', 'a_segovia.png', 'mask.jpg', 'anagram.jpg'],
        ['a.txt', 'a_mask.png', 'a_mask.txt'],  # a picture of a mask, labelled as such
        ['b.jpg'],
    ],
    ids=' '.join,
)
def test_what_may_lie_beside_the_images(tmp_path, others):
    touch(tmp_path, 'pictures/a.jpg', *(f'pictures/{name}' for name in others))
    (tmp_path / 'data.yaml').write_text('train: pictures')
    images = [name for name in ['a.jpg', *others] if name.endswith(('.jpg', '.png'))]
    assert len(found(tmp_path).pairs) == len(images)


def test_data_yml(tmp_path):
    touch(tmp_path, 'holdout/images/a.jpg', 'holdout/labels/a.txt')
    (tmp_path / 'data.yml').write_text('val: holdout/images\nnames: [crack]')
    assert len(found(tmp_path, 'val').pairs) == 1
    assert read_data_yaml(tmp_path).names == ['crack']


def test_yaml_of_another_name_is_not_read_in_silence(tmp_path, log):
    (tmp_path / 'dataset.yaml').write_text('names: [rust]')
    assert read_data_yaml(tmp_path).names is None
    (message,) = log
    assert f'{tmp_path}/dataset.yaml is not read' in message


def test_several_folders_and_lists(tmp_path):
    touch(tmp_path, *(f'{part}/{kind}' for part in 'ab' for kind in ('images/1.jpg', 'images/2.jpg', 'labels/1.txt')))
    (tmp_path / 'list.txt').write_text(f'a/images/2.jpg\r\n\n{tmp_path}/b/images/1.jpg\n')
    (tmp_path / 'data.yaml').write_text('train: [list.txt, a/images]\nval: list.txt')
    assert [pair[0] for pair in relative_pairs(tmp_path, found(tmp_path))] == [
        'a/images/1.jpg',
        'a/images/2.jpg',
        'b/images/1.jpg',
    ]
    listed = found(tmp_path, 'val')
    assert len(listed.pairs) == 2
    assert listed.orphans == []  # the label of a/images/1.jpg has its image, if not in this split


def test_list_with_an_image_twice(tmp_path, log):
    touch(tmp_path, 'images/a.jpg', 'labels/a.txt')
    (tmp_path / 'list.TXT').write_text('images/a.jpg\n./images/a.jpg\n')
    (tmp_path / 'data.yaml').write_text('train: list.TXT')
    assert len(found(tmp_path).pairs) == 1
    assert log == [f'{tmp_path}/list.TXT lists 1 images more than once, which are taken once']


def test_labels_beside_the_images(tmp_path):
    touch(tmp_path, 'pictures/a.jpg', 'pictures/a.txt')
    (tmp_path / 'data.yaml').write_text('train: pictures')
    files = found(tmp_path)
    assert relative_pairs(tmp_path, files) == [('pictures/a.jpg', 'pictures/a.txt')]
    assert files.others == []


def test_the_last_folder_named_images_is_replaced(tmp_path):
    touch(tmp_path, 'images/cracks/train/images/a.jpg', 'images/cracks/train/labels/a.txt')
    assert found(tmp_path / 'images/cracks').unlabelled == []


def test_what_does_not_fit_is_named(tmp_path):
    touch(tmp_path, 'train/images/a.jpg', 'train/images/b.jpg', 'train/images/c.gif', 'train/images/Thumbs.db')
    touch(tmp_path, 'train/images/._a.jpg', 'train/images/.cache/d.jpg', 'train/labels/b.txt', 'train/labels/z.txt')
    files = found(tmp_path)
    assert len(files.pairs) == 2
    assert files.unlabelled == [str(tmp_path / 'train/images/a.jpg')]
    assert files.orphans == [str(tmp_path / 'train/labels/z.txt')]
    assert files.others == [str(tmp_path / 'train/images' / name) for name in ('Thumbs.db', 'c.gif')]
    assert count_suffixes(files.others) == '1 .db, 1 .gif'


def assert_message(error: pytest.ExceptionInfo, parts: Sequence[str]) -> None:
    for part in parts:
        assert part in str(error.value)


def test_missing_root(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'data_root .*nowhere does not exist'):
        read_data_yaml(tmp_path / 'nowhere')


def test_unknown_split_tells_what_there_is(tmp_path):
    touch(tmp_path, 'train/images/a.jpg', 'train/labels/a.txt')
    with pytest.raises(FileNotFoundError) as error:
        found(tmp_path, 'test')
    assert_message(error, ["no split 'test'", 'test/images', 'images/test', f'the folder {tmp_path}/train/images'])
    (tmp_path / 'data.yaml').write_text('train: train/images\nval: valid/images')
    with pytest.raises(FileNotFoundError) as error:
        found(tmp_path, 'test')
    assert_message(error, ['`test` in ', '`train` in ', '`val` in '])


def test_entry_that_leads_nowhere(tmp_path):
    touch(tmp_path, 'training/images/a.jpg', 'training/labels/a.txt')
    (tmp_path / 'data.yaml').write_text('train: ../train/images')
    with pytest.raises(FileNotFoundError) as error:
        found(tmp_path)
    assert_message(error, ['`train: ../train/images`', f'{tmp_path}/train/images', f'{tmp_path}/training/images'])


def test_list_of_any_names(tmp_path):
    names = ['a b.jpg', '裂缝.jpg', 'line\u2028break\x85.jpg', os.fsdecode(b'Ri\xdf.jpg')]
    touch(tmp_path, *(f'images/{name}' for name in names), 'labels/a b.txt')
    (tmp_path / 'list.txt').write_bytes(b'\xef\xbb\xbf' + os.fsencode('\r\n'.join(f'images/{name}' for name in names)))
    (tmp_path / 'data.yaml').write_text('train: list.txt')
    assert {Path(image).name for image, _ in found(tmp_path).pairs} == set(names)


def test_list_with_missing_images(tmp_path):
    touch(tmp_path, 'images/a.jpg', 'labels/a.txt')
    (tmp_path / 'list.txt').write_text('images/a.jpg\nimages/b.jpg\nnowhere/c.jpg')
    (tmp_path / 'data.yaml').write_text('train: list.txt')
    with pytest.raises(FileNotFoundError, match=r'list\.txt lists 2 images that do not exist: .*b\.jpg, .*c\.jpg\.'):
        found(tmp_path)


def test_empty_split(tmp_path):
    touch(tmp_path, 'train/images/notes.md', 'train/labels/a.txt')
    with pytest.raises(FileNotFoundError, match=r"split 'train' is empty: no image .* in .*train/images"):
        found(tmp_path)


def test_no_folder_of_labels(tmp_path):
    touch(tmp_path, 'train/images/a.jpg')
    with pytest.raises(FileNotFoundError, match=r'no folder of labels: looked for .*train/labels\.'):
        found(tmp_path)
    (tmp_path / 'train/labels').mkdir()
    assert len(found(tmp_path).unlabelled) == 1


@pytest.mark.parametrize('stray', ['a_label.txt', 'a.json'])
def test_labels_of_which_none_fits_are_an_error(tmp_path, stray):
    touch(tmp_path, 'train/images/a.jpg', 'train/images/b.jpg', f'train/labels/{stray}')
    with pytest.raises(FileNotFoundError, match=rf'none of the 2 images has a label, .*{stray}.* would be .*/a\.txt'):
        found(tmp_path)


def test_split_without_labels_beside_one_with_labels(tmp_path):
    touch(tmp_path, 'images/a.jpg', 'images/b.jpg', 'labels/a.txt')
    (tmp_path / 'list.txt').write_text('images/b.jpg')
    (tmp_path / 'data.yaml').write_text('test: list.txt')
    assert len(found(tmp_path, 'test').unlabelled) == 1


@pytest.mark.parametrize(
    ('content', 'names'),
    [
        ("nc: '1'\nnames: [crack]", ['crack']),
        ('nc: 2\nnames: [crack, "1"]', ['crack', '1']),
        ('names: {1: b, 0: a}', ['a', 'b']),
        ("names:\n  '0': a\n", ['a']),
        ('names: [0]', ['0']),
        ('train: x', None),
    ],
)
def test_class_names(tmp_path, content, names):
    (tmp_path / 'data.yaml').write_text(content)
    assert read_data_yaml(tmp_path).names == names


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('names: {1: a, 2: b}', 'has the ids 1, 2; ids count from 0'),
        ('names: crack', "`names` is 'crack', not a list"),
        ('names: []', r'`names` is \[\], not a list'),
        ('nc: 3\nnames: [a, b]', '`nc` is 3, but `names` has 2'),
        ('names: [a', 'is not valid YAML'),
        ('just words', 'holds no `key: value` lines'),
    ],
)
def test_faulty_data_yaml(tmp_path, content, message):
    (tmp_path / 'data.yaml').write_text(content)
    with pytest.raises(ValueError, match=rf'data\.yaml.*{message}'):
        read_data_yaml(tmp_path)


def test_unreadable_data_yaml(tmp_path):
    (tmp_path / 'data.yaml').symlink_to('nowhere')
    with pytest.raises(ValueError, match=r'data\.yaml cannot be read: No such file'):
        read_data_yaml(tmp_path)


def test_slow_listing_shows_its_progress_in_the_main_process(tmp_path, monkeypatch, capsys):
    touch(tmp_path, *(f'train/images/{i}.jpg' for i in range(3)), 'train/labels/0.txt')
    found(tmp_path)
    assert capsys.readouterr().err == ''
    monkeypatch.setattr(yolo_layout, '_PROGRESS_DELAY', 0)
    found(tmp_path)
    assert "Listing the files of 'train': 4 files" in capsys.readouterr().err
    monkeypatch.setattr(yolo_layout, 'is_main_process', lambda: False)
    found(tmp_path)
    assert capsys.readouterr().err == ''
