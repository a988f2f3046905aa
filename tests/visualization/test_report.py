import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mmws  # noqa: F401
from mmws.visualization.report import format_metrics, read_history, read_test, write_report
from tests.helpers.paths import DIGITS_CONFIG
from tests.helpers.processes import call_tool

pytest.importorskip('matplotlib')


def train_line(step: int, loss: float = 1.0) -> dict:
    return {
        'lr': 0.02,
        'data_time': 0.01,
        'loss': loss,
        'loss_cls': loss / 2,
        'loss_mask': loss / 2,
        'acc': 90.0,
        'iter': step,
        'step': step,
    }


def val_line(step: int, bbox: float, segm: float) -> dict:
    line = {'data_time': 0.1, 'step': step}
    for task, value in (('bbox', bbox), ('segm', segm)):
        line[f'coco/{task}_mAP'] = value
        line[f'coco/{task}_mAP_50'] = value + 0.2
        line[f'coco/{task}_mAP_75'] = value + 0.05
        line[f'coco/{task}_mAP_s'] = value - 0.1
        line[f'coco/{task}_mAP_m'] = value + 0.1
        line[f'coco/{task}_mAP_l'] = -1.0
    return line


def write_log(work_dir: Path, timestamp: str, lines: list, tail: str = '') -> None:
    folder = work_dir / timestamp / 'vis_data'
    folder.mkdir(parents=True)
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (folder / 'scalars.json').write_text(text + tail)


@pytest.fixture
def work_dir(tmp_path) -> Path:
    """A run killed at iteration 50 and resumed from its checkpoint of iteration 40."""
    first = [train_line(step, loss=2.0) for step in (10, 20)]
    first += [val_line(0, 0.1, 0.11)]
    first += [train_line(step, loss=1.5) for step in (30, 40)]
    first += [val_line(0, 0.2, 0.21)]
    first += [train_line(50, loss=9.0)]
    write_log(tmp_path, '20250101_000000', first, tail='{"lr": 0.02, "lo')
    resumed = [train_line(step, loss=1.0) for step in (50, 60)]
    resumed += [val_line(0, 0.3, 0.31)]
    write_log(tmp_path, '20250102_000000', resumed)
    return tmp_path


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / 'some_detector.py'
    path.write_text('model = dict()\n')
    return path


def test_a_resumed_run_is_joined_by_step(work_dir):
    history = read_history(work_dir)
    assert [r['iteration'] for r in history.train] == [10, 20, 30, 40, 50, 60]
    assert [r['loss'] for r in history.train] == [2.0, 2.0, 1.5, 1.5, 1.0, 1.0]
    assert [r['iteration'] for r in history.evaluations] == [20, 40, 60]
    assert [r['segm_mAP'] for r in history.evaluations] == [0.11, 0.21, 0.31]


def test_a_run_started_anew_replaces_the_old_one(work_dir):
    write_log(work_dir, '20250103_000000', [train_line(10), train_line(20), val_line(0, 0.5, 0.6)])
    history = read_history(work_dir)
    assert [r['iteration'] for r in history.train] == [10, 20]
    assert [r['bbox_mAP'] for r in history.evaluations] == [0.5]


@pytest.mark.parametrize('steps', [(0, 0), (1, 2), (20, 40)], ids=['zero', 'epochs', 'iterations'])
def test_evaluations_stand_at_the_iteration_whatever_their_step_counts(tmp_path, steps):
    lines = [train_line(20), val_line(steps[0], 0.1, 0.1)]
    lines += [train_line(40), val_line(steps[1], 0.2, 0.2)]
    write_log(tmp_path, '20250101_000000', lines)
    assert [r['iteration'] for r in read_history(tmp_path).evaluations] == [20, 40]


def table_rows(text: str) -> list:
    lines = [line for line in text.splitlines() if line.startswith('|')]
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]


def test_the_table_has_the_last_evaluation_and_the_history(work_dir):
    rows = table_rows(format_metrics('title', read_history(work_dir), {}))
    assert rows[0] == ['task', 'mAP', 'AP50', 'AP75', 'small', 'medium', 'large']
    assert rows[2] == ['bbox', '0.300', '0.500', '0.350', '0.200', '0.400', '–']
    assert rows[3] == ['segm', '0.310', '0.510', '0.360', '0.210', '0.410', '–']
    assert rows[4] == ['iteration', 'bbox mAP', 'segm mAP']
    assert rows[6:] == [
        ['20', '0.100', '0.110'],
        ['40', '0.200', '0.210'],
        ['60', '0.300', '0.310'],
    ]


def test_the_latest_test_run_is_reported(work_dir):
    for timestamp, value in (('20250103_000000', 0.4), ('20250104_000000', 0.45)):
        folder = work_dir / timestamp
        folder.mkdir()
        (folder / f'{timestamp}.json').write_text(json.dumps(val_line(0, value, value)))
    text = format_metrics('title', read_history(work_dir), read_test(work_dir))
    assert table_rows(text.partition('## Test')[2])[2][:2] == ['bbox', '0.450']


def test_a_voc_metric_and_a_run_without_evaluations(tmp_path):
    write_log(tmp_path / 'none', '1', [train_line(10)])
    text = format_metrics('title', read_history(tmp_path / 'none'), {})
    assert 'No evaluation was logged' in text

    write_log(tmp_path / 'voc', '1', [train_line(10), {'pascal_voc/mAP': 0.7, 'step': 1}])
    rows = table_rows(format_metrics('title', read_history(tmp_path / 'voc'), {}))
    assert rows[2][:2] == ['all', '0.700']
    assert rows[-1] == ['10', '0.700']


def test_other_metrics_than_map(tmp_path, config):
    # Bug: a segmenter's run "has no evaluation", since its metrics have no prefix and no mAP.
    scores = {'aAcc': 89.0, 'mIoU': 12.5, 'data_time': 0.1, 'time': 0.2, 'step': 10}
    write_log(tmp_path / 'run', '1', [train_line(10), scores])
    config.write_text("default_scope = 'mmseg'\nmodel = dict()\n")
    out = write_report(tmp_path / 'run', config)  # draws nothing, and needs no checkpoint
    rows = table_rows((out / 'metrics.md').read_text(encoding='utf-8'))
    assert rows[0] == ['metric', 'value']
    assert ['mIoU', '12.500'] in rows
    assert rows[-1] == ['10', '89.000', '12.500']
    assert 'mIoU' in (out / 'report.html').read_text(encoding='utf-8')


def test_report_of_a_run_without_pictures(work_dir, config):
    out = write_report(work_dir, config, num_pictures=0)
    assert out == work_dir / 'report'
    assert (out / 'metrics.md').read_text(encoding='utf-8').startswith('# some_detector\n')
    curves = Image.open(out / 'curves.png')
    assert min(curves.size) > 600
    assert np.array(curves.convert('L')).std() > 10


def test_curves_of_a_diverged_run_without_evaluations(tmp_path, config):
    lines = [train_line(10), train_line(20, loss=float('nan')), train_line(30, loss=float('inf'))]
    write_log(tmp_path / 'run', '1', lines)
    write_report(tmp_path / 'run', config, num_pictures=0)


def test_no_log_is_one_clear_line(tmp_path, config):
    with pytest.raises(FileNotFoundError, match='holds no log of a training') as error:
        write_report(tmp_path, config)
    assert '\n' not in str(error.value)


def test_a_missing_checkpoint_is_one_clear_line(work_dir, config):
    with pytest.raises(FileNotFoundError, match='names no last_checkpoint'):
        write_report(work_dir, config)
    with pytest.raises(FileNotFoundError, match=r'checkpoint nowhere\.pth does not exist'):
        write_report(work_dir, config, checkpoint='nowhere.pth')
    (work_dir / 'last_checkpoint').write_text('/gone/iter_60.pth')
    with pytest.raises(FileNotFoundError, match=r'checkpoint /gone/iter_60\.pth does not exist'):
        write_report(work_dir, config)
    assert not (work_dir / 'report').exists()


def test_tool(work_dir, config, tmp_path, monkeypatch, capsys):
    call_tool('report.py', config, work_dir, '--out', tmp_path / 'out', '--num-pictures', 0)
    assert '| segm | 0.310 |' in capsys.readouterr().out
    assert (tmp_path / 'out' / 'curves.png').exists()

    with pytest.raises(SystemExit, match=r'^error: .* names no last_checkpoint'):
        call_tool('report.py', config, work_dir)


@pytest.mark.slow
def test_pictures_of_a_tiny_detector(tmp_path):
    """Untrained weights: what is checked is that picture, size and both halves are there."""
    pytest.importorskip('sklearn')
    torch = pytest.importorskip('torch')
    pytest.importorskip('mmdet.models', exc_type=ImportError)
    from mmcv.image import imrescale
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    from mmws.data.digits import CLASSES, generate_digits
    from mmws.visualization.report import draw_predictions

    data = generate_digits(tmp_path / 'digits', num_train=1, num_val=2)
    config = Config.fromfile(DIGITS_CONFIG)
    dataset = config.test_dataloader.dataset
    dataset.data_root = str(data)
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    checkpoint = tmp_path / 'untrained.pth'
    torch.save(
        {'state_dict': model.state_dict(), 'meta': {'dataset_meta': {'classes': CLASSES}}},
        checkpoint,
    )
    assert draw_predictions(config, checkpoint, tmp_path / 'predictions', 8) == 2
    picture = np.array(Image.open(tmp_path / 'predictions' / 'val_000001.png').convert('RGB'), int)
    scene = np.array(Image.open(data / 'val' / 'val_000001.png'))
    side = 4 * 192  # small images are enlarged
    assert picture.shape[1] > 2 * side
    caption = picture.shape[0] - side
    assert picture[:caption].std() > 0  # "truth" and "prediction"
    left, right = picture[caption:, :side], picture[caption:, -side:]
    np.testing.assert_array_equal(right, imrescale(scene, 4))  # untrained: nothing scores 0.3
    assert np.abs(left - right).max() > 50
