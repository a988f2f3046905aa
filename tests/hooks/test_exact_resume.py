import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import DATASETS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS

from mmws.checkpoints import find_intact
from mmws.compat import CheckpointError, read_checkpoint
from tests.helpers.toy_training import (
    IMAGES,
    ToyImages,
    ToyNet,
    at,
    differences,
    kill,
    run,
    toy_config,
)


@pytest.fixture(autouse=True)
def handlers():
    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD]
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def resume(cfg):
    return run(cfg, resume=str(find_intact(cfg.work_dir).path))


@pytest.mark.parametrize('accumulate', [1, 2])
@pytest.mark.parametrize('seed', [3, None])
@pytest.mark.parametrize('by_epoch', [False, True])
def test_a_killed_training_goes_on_as_if_it_had_not_been(tmp_path, by_epoch, seed, accumulate):
    # Bugs: samplers and augmentations repeat the start; the order of images is another one, above
    # all where no seed was given; gradients between two updates are lost; EMA starts anew.
    options = dict(by_epoch=by_epoch, seed=seed, accumulate=accumulate, ema=True)
    options |= dict(length=3, interval=1) if by_epoch else dict(length=10, interval=3)
    last = 'epoch_3.pth' if by_epoch else 'iter_10.pth'
    full, part = (toy_config(tmp_path / name, **options) for name in ('full', 'part'))
    run(full)
    middle = 'epoch_2.pth' if by_epoch else 'iter_9.pth'
    os.makedirs(part.work_dir)
    shutil.copy(tmp_path / 'full' / middle, part.work_dir)
    ToyImages.loaded.clear()
    resume(part)
    assert differences(tmp_path / 'full' / last, tmp_path / 'part' / last) == []
    # Bug: what was seen before is loaded and thrown away. Validation loads each image once.
    assert len(ToyImages.loaded) == (2 * IMAGES if by_epoch else 1 + IMAGES)


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('by_epoch', [False, True])
def test_a_stop_in_the_middle_goes_on_there(tmp_path, by_epoch, workers):
    # Bugs: an epoch that was stopped in its middle starts anew or is left out; data workers begin
    # with the random numbers of the first epoch.
    options = dict(by_epoch=by_epoch, workers=workers, accumulate=2, val=False)
    options |= dict(length=2, interval=1) if by_epoch else dict(length=10, interval=4)
    last = 'epoch_2.pth' if by_epoch else 'iter_10.pth'
    full, part = (toy_config(tmp_path / name, **options) for name in ('full', 'part'))
    run(full)

    def tell_to_stop(runner, data_batch):
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as stopped:
        run(part, at(8, tell_to_stop))
    assert stopped.value.code == 75
    found = find_intact(part.work_dir)
    assert read_checkpoint(found.path)['meta']['iter'] == 9
    resume(part)
    assert differences(tmp_path / 'full' / last, tmp_path / 'part' / last) == []
    assert not (tmp_path / 'part' / 'interrupted.pth').exists()


@pytest.mark.slow
def test_a_kill_loses_no_more_than_the_steps_since_the_last_checkpoint(tmp_path):
    full, part = (toy_config(tmp_path / name) for name in ('full', 'part'))
    run(full)
    run(part, at(8, kill))
    assert find_intact(part.work_dir).path.name == 'iter_6.pth'
    resume(part)
    assert differences(tmp_path / 'full/iter_12.pth', tmp_path / 'part/iter_12.pth') == []


def test_validation_does_not_change_the_training(tmp_path):
    # Bug: validation draws from the generators of the training, and only an uninterrupted training
    # has validated before its next step.
    often, never = toy_config(tmp_path / 'often'), toy_config(tmp_path / 'never', val=False)
    run(often)
    run(never)
    assert differences(tmp_path / 'often/iter_12.pth', tmp_path / 'never/iter_12.pth') == []


def test_the_number_of_workers_does_not_change_the_training(tmp_path):
    none, two = (toy_config(tmp_path / str(n), workers=n, val=False) for n in (0, 2))
    run(none)
    run(two)
    assert differences(tmp_path / '0/iter_12.pth', tmp_path / '2/iter_12.pth') == []


def log_of(runner):
    (path,) = Path(runner.log_dir).glob('*.log')
    return path.read_text()


def test_another_number_of_images_is_told_and_the_rate_scaled_where_asked(tmp_path):
    cfg = toy_config(tmp_path / 'w', length=6)
    run(cfg)
    more = toy_config(tmp_path / 'w', length=9, images_per_step=2)
    more.auto_scale_lr = dict(enable=True, base_batch_size=1)
    text = log_of(resume(more))
    assert 'images per process 1 before, 2 now' in text
    assert 'the learning rate of the checkpoint is scaled by 2' in text
    group = read_checkpoint(tmp_path / 'w/iter_9.pth')['optimizer']['param_groups'][0]
    assert group['initial_lr'] == pytest.approx(0.02)


@pytest.mark.parametrize(('before', 'now'), [(1, 2), (2, 1)])
@pytest.mark.parametrize('written_by', ['this version', 'an older version'])
def test_an_epoch_of_another_length_is_seen_whole(tmp_path, before, now, written_by):
    # Bug: the iterations of the first epoch, counted in batches of another size, are taken for a
    # part of the second one or for all of it, which is left out.
    run(
        toy_config(tmp_path, by_epoch=True, length=1, interval=1, images_per_step=before, val=False)
    )
    path = tmp_path / 'epoch_1.pth'
    if written_by == 'an older version':
        checkpoint = torch.load(path, weights_only=True)
        del checkpoint['mmws_resume']['epoch']
        torch.save(checkpoint, path)
    for epochs in (2, 3):
        # Bug: the third epoch is left out, where nothing differs from the run that is resumed.
        cfg = toy_config(tmp_path, True, epochs, 1, images_per_step=now, val=False)
        ToyImages.loaded.clear()
        resume(cfg)
        assert len(set(ToyImages.loaded)) == IMAGES


@pytest.mark.parametrize(('images', 'left'), [(1, IMAGES - 3), (2, IMAGES)])
def test_the_middle_of_an_epoch_is_found_after_the_length_of_an_epoch_has_changed(
    tmp_path, images, left
):
    # Bug: the place in the epoch is that of a training whose epochs all had the present length.
    def stop(runner, data_batch):
        os.kill(os.getpid(), signal.SIGTERM)

    run(toy_config(tmp_path, True, 1, 1, images_per_step=2, val=False))
    with pytest.raises(SystemExit):
        run(toy_config(tmp_path, True, 3, 1, val=False), at(6, stop), str(tmp_path / 'epoch_1.pth'))
    cfg = toy_config(tmp_path, True, 2, 1, images_per_step=images, val=False)
    ToyImages.loaded.clear()
    text = log_of(resume(cfg))
    # Three of the seven images were seen; with other batches the epoch begins at its start.
    assert len(set(ToyImages.loaded)) == left
    assert ('begins at its start' in text) is (images == 2)


@MODELS.register_module()
class ToyWithTwoOptimizers(ToyNet):
    def train_step(self, data, optim_wrapper):
        data = self.data_preprocessor(data, True)
        loss, log = self.parse_losses(self._run_forward(data, mode='loss'))
        (optim_wrapper['a'].scale_loss(loss)).backward()
        for wrapper in optim_wrapper.values():
            wrapper._inner_count += 1
            if wrapper.should_update():
                wrapper.step()
                wrapper.zero_grad()
        return log


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TwoOptimizers:
    def __init__(self, **_):
        pass

    def __call__(self, model):
        parts = {'a': model.layers[:2], 'b': model.layers[2:]}
        return OptimWrapperDict(
            **{
                name: OptimWrapper(torch.optim.AdamW(part.parameters(), 0.01), 2)
                for name, part in parts.items()
            }
        )


def test_several_optimizers_go_on_between_two_updates(tmp_path):
    # Bug: the gradients of an accumulation are lost, and the count of its steps begins anew.
    cfg = toy_config(tmp_path / 'full', length=6, val=False)
    cfg.model.type = 'ToyWithTwoOptimizers'
    cfg.pop('optim_wrapper')
    cfg.optim_wrapper = dict(constructor='TwoOptimizers')
    run(cfg)
    part = Config(cfg.to_dict())
    part.work_dir = str(tmp_path / 'part')
    run(part, resume=str(tmp_path / 'full/iter_3.pth'))
    one, other = (read_checkpoint(tmp_path / name / 'iter_6.pth') for name in ('full', 'part'))
    assert one['mmws_resume']['run']['accumulated steps'] == 2
    for name, value in one['state_dict'].items():
        assert torch.equal(value, other['state_dict'][name]), name


@DATASETS.register_module()
class ToyStream(torch.utils.data.IterableDataset):
    metainfo: dict = {}  # noqa: RUF012

    def __len__(self):
        return 4

    def __iter__(self):
        images = ToyImages()
        return (images[index] for index in range(4))


def test_a_finite_stream_of_data_is_read_again(tmp_path):
    # Bug: AttributeError after the first pass.
    cfg = toy_config(tmp_path, length=6, val=False)
    cfg.train_dataloader.dataset = dict(type='ToyStream')
    cfg.train_dataloader.sampler = None
    text = log_of(run(cfg))
    assert 'ToyStream has no indices' in text
    assert find_intact(tmp_path).path.name == 'iter_6.pth'


def test_another_learning_rate_is_told(tmp_path):
    # Bug: the optimizer goes on with the old one, without a word.
    cfg = toy_config(tmp_path / 'w', length=6)
    run(cfg)
    cfg.optim_wrapper.optimizer.lr = 0.03
    cfg.train_cfg.max_iters = 7
    assert re.search(
        r'rate of the config is 0\.03, but .* the checkpoint, 0\.01', log_of(resume(cfg))
    )


def test_another_optimizer_or_model_is_refused(tmp_path):
    # Bug: a KeyError at the first step.
    cfg = toy_config(tmp_path / 'w', length=3)
    run(cfg)
    cfg.optim_wrapper.optimizer = dict(type='SGD', lr=0.1, momentum=0.9)
    with pytest.raises(CheckpointError, match=r'cannot be resumed with SGD: .* another optimizer'):
        resume(cfg)


@pytest.mark.parametrize('missing', ['optimizer', 'message_hub', 'meta'])
def test_a_checkpoint_that_cannot_be_resumed_is_refused(tmp_path, missing):
    cfg = toy_config(tmp_path / 'w', length=3)
    run(cfg)
    checkpoint = read_checkpoint(tmp_path / 'w/iter_3.pth')
    del checkpoint[missing]
    torch.save(checkpoint, tmp_path / 'odd.pth')
    with pytest.raises((CheckpointError, KeyError), match=missing):
        run(cfg, resume=str(tmp_path / 'odd.pth'))


@pytest.fixture
def deterministic_algorithms():
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
def test_mixed_precision_on_a_gpu_resumes_exactly(tmp_path, deterministic_algorithms):
    # Bugs: the gradient scaler starts anew; the GPU's random numbers, which dropout draws, too.
    options = dict(length=30, interval=10, randomness=dict(seed=3, deterministic=True))
    paths = []
    for name, action in (('full', None), ('part', at(15, kill))):
        cfg = toy_config(tmp_path / name, ema=True, accumulate=2, **options)
        cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype='float16', loss_scale='dynamic')
        run(cfg, action)
        if action is not None:
            run(cfg, resume=str(tmp_path / name / 'iter_10.pth'))
        paths.append(tmp_path / name / 'iter_30.pth')
    assert differences(*paths) == []


def change(tree, path, value):
    """Set a place in dicts and lists, or remove it for `...`."""
    *way, last = path
    for key in way:
        tree = tree[key]
    if value is ...:
        del tree[last]
    else:
        tree[last] = value


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    cfg = toy_config(tmp_path_factory.mktemp('trained') / 'w', length=3, val=False, accumulate=2)
    run(cfg)
    return cfg


@pytest.mark.parametrize(
    ('path', 'value', 'named'),
    [
        (['mmws_resume'], 5, r'mmws_resume .* a int'),
        (['mmws_resume', 'run'], ..., 'lacks the dict run'),
        (['mmws_resume', 'run', 'processes'], 'x', r'run\.processes'),
        (['mmws_resume', 'run', 'accumulated steps'], 0, r'run\.accumulated steps'),
        (['mmws_resume', 'run', 'seed'], [1], r'run\.seed'),
        (['mmws_resume', 'ranks', 0], None, r'ranks\.0\.python'),
        (['mmws_resume', 'ranks', 0, 'torch'], torch.ones(3), r'ranks\.0\.torch'),
        (['mmws_resume', 'ranks', 0, 'numpy_rest'], [1], r'ranks\.0\.numpy_rest'),
        (['mmws_resume', 'ranks', 0, 'gradients'], {'a': 1}, r'ranks\.0\.gradients'),
        (['mmws_resume', 'epoch'], 'x', r'epoch\.batches is None'),
        (['mmws_resume', 'epoch'], {'batches': 7, 'seen': -1}, r'epoch\.seen is -1'),
        (['optimizer', 'state'], torch.ones(1), r'optimizer\.state'),
        (['optimizer', 'state', 0], [], r'optimizer\.state\.0'),
        (['optimizer', 'state', 0, 'exp_avg'], torch.ones(1), r'optimizer\.state\.0\.exp_avg'),
        (['optimizer', 'state', 0, 'step'], 'x', r'optimizer\.state\.0\.step'),
        (['optimizer', 'state', 1, 'exp_avg_sq'], ..., r'optimizer\.state\.1'),
        (['optimizer', 'param_groups'], {}, 'param_groups'),
        (['optimizer', 'param_groups', 0, 'params'], None, 'params'),
        (['optimizer', 'param_groups', 0, 'amsgrad'], torch.ones(2), r'amsgrad in it is a tensor'),
        (['optimizer', 'param_groups', 0, 'lr'], ..., r'param_groups\.0\.lr in it is NoneType'),
        (['optimizer', 'param_groups', 0, 'eps'], float('nan'), r'param_groups\.0\.eps'),
        (['param_schedulers'], None, 'param_schedulers in it is no list'),
        (['param_schedulers', 0], 'x', 'param_schedulers in it is no list'),
        (['param_schedulers', 0, 'last_step'], 'x', r'param_schedulers\.0\.last_step .* str'),
        (['param_schedulers', 0, 'base_values'], [], r'param_schedulers\.0\.base_values'),
        (['param_schedulers', 0, 'base_values', 0], None, r'param_schedulers\.0\.base_values'),
        (['param_schedulers', 0, 'param_name'], 'l', r"param_schedulers\.0\.param_name .* 'l'"),
        (['param_schedulers', 0, 'by_epoch'], None, r'param_schedulers\.0\.by_epoch'),
        (['message_hub', 'runtime_info'], [], r'message_hub\.runtime_info'),
        (['message_hub', 'resumed_keys', 'iter'], {1: 2}, r"resumed_keys of 'iter' .* dict"),
        (['message_hub', 'resumed_keys', 'iter'], False, r"resumed_keys of 'iter' .* False"),
    ],
)
def test_an_entry_of_another_form_is_refused_by_name(trained, tmp_path, path, value, named):
    # Bugs: a TypeError or KeyError of PyTorch's or ours, before the first step or in it.
    checkpoint = torch.load(Path(trained.work_dir, 'iter_3.pth'), weights_only=True)
    change(checkpoint, path, value)
    torch.save(checkpoint, tmp_path / 'odd.pth')
    cfg = toy_config(tmp_path / 'w', length=5, val=False, accumulate=2)
    with pytest.raises(CheckpointError, match=rf'odd\.pth cannot be resumed.*{named}'):
        run(cfg, resume=str(tmp_path / 'odd.pth'))


def test_moments_that_are_not_finite_are_refused(trained, tmp_path):
    # Bug: the weights are finite, and NaN after the first step.
    checkpoint = torch.load(Path(trained.work_dir, 'iter_3.pth'), weights_only=True)
    checkpoint['optimizer']['state'][0]['exp_avg'].view(-1)[0] = torch.nan
    torch.save(checkpoint, tmp_path / 'odd.pth')
    with pytest.raises(CheckpointError, match=r'optimizer\.state in it holds NaN'):
        run(toy_config(tmp_path / 'w', length=5), resume=str(tmp_path / 'odd.pth'))
