"""Predictions of an untrained detector: what is checked is what is written, and where."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from mmws import CheckpointMismatchError
from mmws.visualization.predict import find_inputs, load_detector, predict
from tests.helpers.paths import DIGITS_CONFIG
from tests.helpers.processes import call_tool

pytestmark = pytest.mark.slow

pytest.importorskip('mmdet.models', exc_type=ImportError)

CLASSES = tuple('abcdefghij')
# Without a threshold, random weights find something.
OPTIONS = {'model.test_cfg.rcnn.score_thr': 0.0, 'model.test_cfg.rcnn.max_per_img': 3}


@pytest.fixture(scope='module')
def config() -> Config:
    cfg = Config.fromfile(DIGITS_CONFIG)
    cfg.merge_from_dict(OPTIONS)
    return cfg


@pytest.fixture(scope='module')
def state_dict(config):
    from mmdet.registry import MODELS

    init_default_scope('mmdet')
    torch.manual_seed(0)
    return MODELS.build(config.model).state_dict()


@pytest.fixture(scope='module')
def checkpoint(config, state_dict, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('checkpoint') / 'untrained.pth'
    meta = {'dataset_meta': {'CLASSES': CLASSES}, 'cfg': config.pretty_text}
    torch.save({'state_dict': state_dict, 'meta': meta}, path)
    return path


@pytest.fixture(scope='module')
def detector(config, checkpoint):
    return load_detector(config, checkpoint, 'cpu')


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (97, 131)) -> Path:
    image = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)
    mmcv.imwrite(image[..., 0] if path.suffix == '.PGM' else image, str(path))
    return path


def test_the_file_holds_what_the_detector_found(detector, tmp_path):
    # Bugs: boxes as corners, masks of the network's size, labels of another class order.
    path = write_image(tmp_path / 'x.png')
    written = predict(detector, [path], tmp_path / 'out', score_threshold=2.0)
    coco = COCO(written.json_path)  # also below the threshold, and pycocotools reads it
    (image,) = coco.loadImgs(coco.getImgIds())
    assert (image['file_name'], image['height'], image['width']) == (str(path), 97, 131)
    assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    found = coco.loadAnns(coco.getAnnIds(imgIds=image['id']))
    expected = detector(str(path), return_datasamples=True)['predictions'][0].pred_instances
    assert len(found) == len(expected) == 3
    for annotation, instance in zip(found, expected):
        left, top, right, bottom = instance.bboxes[0].tolist()
        np.testing.assert_allclose(
            annotation['bbox'], (left, top, right - left, bottom - top), atol=0.01
        )
        assert annotation['category_id'] == instance.labels.item() + 1
        assert annotation['score'] == pytest.approx(instance.scores.item(), abs=1e-5)
        mask = mask_utils.decode(annotation['segmentation'])
        np.testing.assert_array_equal(mask, instance.masks[0].numpy())
        assert annotation['area'] == mask.sum()


def test_the_threshold_decides_what_is_drawn(detector, tmp_path):
    path = write_image(tmp_path / 'x.png')
    drawn = {}
    for threshold in (0.0, 2.0):
        predict(detector, [path], tmp_path / 'out', threshold)
        drawn[threshold] = mmcv.imread(str(tmp_path / 'out' / 'pictures' / 'x.png'))
    # Nothing is drawn: the image, enlarged, red and blue in their places.
    np.testing.assert_array_equal(drawn[2.0], mmcv.imrescale(mmcv.imread(str(path)), 7))
    assert np.abs(drawn[0.0].astype(int) - drawn[2.0]).max() > 50


def test_images_of_one_name_do_not_replace_each_other(detector, tmp_path):
    names = ['a/x.png', 'b/x.png', 'b/x.PGM', 'b/x.jpg']
    inputs = [write_image(tmp_path / name, seed) for seed, name in enumerate(names)]
    written = predict(detector, find_inputs([tmp_path / 'a', tmp_path / 'b']), tmp_path / 'out', 2)
    pictures = sorted((tmp_path / 'out' / 'pictures').rglob('*.*'))
    assert [path.relative_to(tmp_path / 'out/pictures').as_posix() for path in pictures] == [
        'a/x.png', 'b/x.PGM.png', 'b/x.jpg', 'b/x.png'
    ]  # fmt: skip
    assert written.num_images == 4
    for path in (inputs[0], inputs[1]):
        drawn = mmcv.imread(str(tmp_path / 'out/pictures' / path.relative_to(tmp_path)))
        np.testing.assert_array_equal(drawn, mmcv.imrescale(mmcv.imread(str(path)), 7))


def test_an_input_is_never_replaced(detector, tmp_path):
    # Bug: predictions on the pictures of an earlier run, into the same folder.
    path = write_image(tmp_path / 'out' / 'pictures' / 'x.png')
    before = path.read_bytes()
    with pytest.raises(ValueError, match='would be replaced by its drawn copy'):
        predict(detector, [path], tmp_path / 'out')
    assert path.read_bytes() == before
    assert not (tmp_path / 'out' / 'predictions.json').exists()


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(detector, tmp_path, capsys):
    good = write_image(tmp_path / 'good.png')
    for name in ('empty.png', 'text.jpg', 'text.mp4'):
        (tmp_path / name).write_bytes(b'' if name == 'empty.png' else b'no image')
    inputs = [*sorted(tmp_path.glob('*t*.*')), good]
    written = predict(detector, inputs, tmp_path / 'out')
    assert [path.name for path in written.failed] == ['empty.png', 'text.jpg', 'text.mp4']
    assert written.num_images == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert [f'{path} cannot be read' in line for path, line in zip(inputs, errors)] == [True] * 3
    assert not any('opencv' in line.lower() for line in errors)  # its file and line of C++
    assert [path.name for path in (tmp_path / 'out' / 'pictures').iterdir()] == ['good.png']


def test_an_interrupted_run_leaves_the_results_up_to_there(detector, tmp_path, monkeypatch):
    inputs = [write_image(tmp_path / f'{i}.png', i) for i in range(3)]

    def interrupt(*args):
        raise KeyboardInterrupt

    predict_two = type(detector).__call__
    calls = []

    def third_is_interrupted(self, *args, **options):
        calls.append(args)
        return interrupt() if len(calls) == 3 else predict_two(self, *args, **options)

    monkeypatch.setattr(type(detector), '__call__', third_is_interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict(detector, inputs, tmp_path / 'out')
    content = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
    assert [image['file_name'] for image in content['images']] == [str(p) for p in inputs[:2]]
    assert len(list((tmp_path / 'out').rglob('*.png'))) == 2


def write_video(path: Path, frames: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 7.0, (96, 64))
    for shade in np.linspace(0, 255, frames):
        writer.write(np.full((64, 96, 3), shade, np.uint8))
    writer.release()
    return path


def test_a_video_gives_a_video_and_numbered_frames(detector, tmp_path):
    # Bugs: frames out of order, or a writer that drops frames of another size without a word.
    path = write_video(tmp_path / 'x.avi', 4)
    written = predict(detector, [path], tmp_path / 'out', score_threshold=2)
    images = json.loads(written.json_path.read_text())['images']
    assert [(i['file_name'], i['frame_index']) for i in images] == [
        (str(path), k) for k in range(4)
    ]
    drawn = cv2.VideoCapture(str(tmp_path / 'out' / 'pictures' / 'x.avi.mp4'))
    assert drawn.get(cv2.CAP_PROP_FPS) == pytest.approx(7)
    shades = []
    while (frame := drawn.read()[1]) is not None:
        assert frame.shape == (640, 960, 3)
        shades.append(frame.mean())
    np.testing.assert_allclose(shades, np.linspace(0, 255, 4), atol=8)
    assert len(list((tmp_path / 'out' / 'pictures').iterdir())) == 1


def test_a_model_of_another_library_is_refused(config, checkpoint):
    # Bug: a segmenter ends in a KeyError of a registry.
    cfg = Config(dict(config.to_dict(), default_scope='mmseg'))
    with pytest.raises(ValueError, match='is of MMSegmentation, whose own inferencer'):
        load_detector(cfg, checkpoint, 'cpu')


def test_inputs_are_files_folders_and_globs_each_once(tmp_path):
    for name in ('a/x.png', 'a/deep/y.JPG', 'a/notes.txt', 'b/[1].jpeg', 'odd.xyz'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def found(*patterns):
        names = find_inputs([tmp_path / pattern for pattern in patterns])
        return [path.relative_to(tmp_path).as_posix() for path in names]

    assert found('a', 'a/x.png', 'b/*') == ['a/deep/y.JPG', 'a/x.png', 'b/[1].jpeg']
    assert found('**/*.png', '?') == ['a/x.png', 'a/deep/y.JPG', 'b/[1].jpeg']
    assert found('odd.xyz', 'b/[1].jpeg') == ['odd.xyz', 'b/[1].jpeg']


@pytest.mark.parametrize(
    ('pattern', 'message'),
    [('*.png', 'no file matches'), ('gone.jpg', 'no such file'), ('.', 'no image in it')],
)
def test_inputs_that_lead_nowhere_are_named(tmp_path, monkeypatch, pattern, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        find_inputs([pattern])
    assert str(error.value).startswith(f'{pattern}: ')
    assert message in str(error.value)


def test_class_names_come_from_the_checkpoint_or_else_from_the_config(
    detector, config, state_dict, tmp_path
):
    # Bug: a checkpoint of bare weights is shown with the names of COCO.
    assert detector.visualizer.dataset_meta['classes'] == CLASSES
    torch.save(state_dict, tmp_path / 'bare.pth')
    bare = load_detector(config, tmp_path / 'bare.pth')
    assert bare.visualizer.dataset_meta['classes'] == tuple('0123456789')
    assert bare.model.dataset_meta['classes'] == tuple('0123456789')


def test_the_config_of_a_checkpoint_is_run_only_if_trusted(checkpoint, state_dict, tmp_path):
    trap = tmp_path / 'trap'
    meta = {'cfg': f'open({str(trap)!r}, "w")\nmodel = dict()\n'}
    torch.save({'state_dict': state_dict, 'meta': meta}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='`trust_checkpoint=True`'):
        load_detector(None, tmp_path / 'x.pth')
    assert not trap.exists()
    trusted = load_detector(None, checkpoint, trust_checkpoint=True)
    assert trusted.model.roi_head.test_cfg.max_per_img == 3
    torch.save(state_dict, tmp_path / 'bare.pth')
    with pytest.raises(ValueError, match='holds no config: give one, `config`'):
        load_detector(None, tmp_path / 'bare.pth', trust_checkpoint=True)


def test_checkpoints_are_read_with_the_check_on(config, tmp_path):
    # Bug: a stack's own loader falls back to running whatever the file says.
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / 'trap'), 'w')

    torch.save({'state_dict': {}, 'meta': Trap()}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'x\.pth cannot be read'):
        load_detector(config, tmp_path / 'x.pth')
    assert not (tmp_path / 'trap').exists()


def test_a_checkpoint_of_another_model_is_refused(config, tmp_path):
    torch.save({'state_dict': {'other.weight': torch.zeros(3)}}, tmp_path / 'x.pth')
    with pytest.raises(CheckpointMismatchError, match=r'x\.pth shares no weight'):
        load_detector(config, tmp_path / 'x.pth')


def test_fewer_class_names_than_classes_are_told_before_any_prediction(
    config, state_dict, tmp_path
):
    # Bug: an index error at the first image on which a class without a name is found.
    meta = {'dataset_meta': {'classes': CLASSES[:3]}}
    torch.save({'state_dict': state_dict, 'meta': meta}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'bbox_head\.num_classes is 10, but only 3 class names'):
        load_detector(config, tmp_path / 'x.pth')


@pytest.mark.parametrize('device', ['cuda:99', 'gpu'])
def test_a_device_that_is_not_there_is_named(config, checkpoint, device):
    with pytest.raises(ValueError, match=f'device {device} cannot be used here'):
        load_detector(config, checkpoint, device)


def test_tool(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / 'in' / 'x.png')
    (tmp_path / 'in' / 'y.png').touch()
    with pytest.raises(SystemExit, match=r'^error: 1 of 2 could not be read: in/y\.png$'):
        call_tool('predict.py', 'in', '--checkpoint', checkpoint, '--trust-checkpoint')
    assert 'predictions.json (1 images)' in capsys.readouterr().out
    assert (tmp_path / 'work_dirs/predictions/pictures/x.png').is_file()
    with pytest.raises(SystemExit, match=r'^error: \*\.jpg: no such file'):
        call_tool('predict.py', '*.jpg', '--checkpoint', checkpoint)
