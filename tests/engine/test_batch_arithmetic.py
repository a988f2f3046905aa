import re
from pathlib import Path

import pytest
import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import nn

import mmws
from mmws.compat import read_checkpoint
from mmws.engine.batch_arithmetic import arithmetic, count_accumulation
from tests.helpers.processes import run_python
from tests.helpers.toy_training import toy_config


def train(cfg):
    runner = Runner.from_cfg(cfg)
    count_accumulation(runner)
    runner.train()
    (log,) = Path(runner.log_dir).glob('*.log')
    return runner, log.read_text()


def test_accumulated_images_count_in_the_learning_rate_and_are_told(tmp_path):
    # Bug: 1 image x 16 accumulated steps trains at the rate of 1 image.
    cfg = toy_config(
        tmp_path, accumulate=4, length=8, images_per_step=2, val=False, log_level='INFO'
    )
    cfg.auto_scale_lr = dict(enable=True, base_batch_size=16)
    runner, log = train(cfg)
    assert runner.optim_wrapper.param_groups[0]['initial_lr'] == pytest.approx(0.01 * 8 / 16)
    assert '2 image(s) x 1 process(es) x 4 accumulated step(s) = 8 image(s) per update' in log
    assert 'learning rate 0.005, that of the config for 16 images x 0.5' in log
    assert '8 iterations = 2 updates' in log
    assert 'warm-up 8 iterations = 2 updates' in log
    assert runner.cfg.auto_scale_lr.base_batch_size == 16


@pytest.mark.parametrize(('norm', 'told'), [('GN', False), ('BN', True)])
def test_batch_normalization_is_told_that_steps_are_no_batch(tmp_path, norm, told):
    cfg = toy_config(tmp_path, accumulate=2, length=2, images_per_step=2, val=False)
    cfg.model.norm = norm
    _, log = train(cfg)
    assert bool(re.search('accumulated steps are not one step with more images', log)) is told


def test_several_optimizers_have_no_single_rate_to_tell(tmp_path):
    # Bug: KeyError: 0, because an OptimWrapperDict has a dict of parameter groups.
    runner = Runner.from_cfg(toy_config(tmp_path, val=False))
    weights = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    inner = [OptimWrapper(torch.optim.SGD([w], 0.1), accumulative_counts=3) for w in weights]
    runner._train_loop = runner.build_train_loop(runner.cfg.train_cfg)
    update, _ = arithmetic(runner, OptimWrapperDict(a=inner[0], b=inner[1]), None)
    assert update.endswith('3 accumulated step(s) = 3 image(s) per update')


def net(norm):
    torch.manual_seed(0)
    norms = {'GN': lambda: nn.GroupNorm(4, 16), 'BN': lambda: nn.BatchNorm2d(16)}
    return nn.Sequential(
        mmws.ConvWS2d(3, 16, 3), norms[norm](), nn.ReLU(), mmws.ConvWS2d(16, 1, 3)
    ).double()


@pytest.mark.parametrize(('norm', 'equal'), [('GN', True), ('BN', False)])
def test_accumulation_equals_the_larger_batch_with_gn_and_ws_alone(norm, equal):
    one, other = net(norm), net(norm)
    images = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    (one(images) ** 2).mean().backward()
    for image in images.split(1):
        ((other(image) ** 2).mean() / 4).backward()
    same = all(
        torch.allclose(a.grad, b.grad, rtol=1e-9, atol=1e-12)
        for a, b in zip(one.parameters(), other.parameters(), strict=True)
    )
    assert same is equal


# Without anything random; images, losses and weights in double precision.
PROGRAM = """
import sys
from pathlib import Path
import torch
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch import nn
import mmws
from mmws.engine.batch_arithmetic import arithmetic, count_accumulation
from mmws.engine.distributed import finish_distributed, prepare_distributed
from tests.helpers.toy_training import *


@MODELS.register_module()
class PlainNet(BaseModel):
    def __init__(self, norm):
        super().__init__()
        torch.manual_seed(0)
        make = {'GN': lambda: nn.GroupNorm(2, 8), 'BN': lambda: nn.BatchNorm2d(8)}[norm]
        self.layers = nn.Sequential(
            mmws.ConvWS2d(2, 8, 3), make(), nn.ReLU(), mmws.ConvWS2d(8, 8, 1), make(),
        ).double()

    def forward(self, inputs, data_samples, mode='tensor'):
        return {'loss': ((self.layers(torch.stack(list(inputs))) - 0.3) ** 2).mean()}


@DATASETS.register_module()
class PlainImages(ToyImages):
    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.rand(2, 6, 6, generator=generator, dtype=torch.float64)
        return {'inputs': image, 'data_samples': BaseDataElement()}


work_dir, norm, images, accumulate, launcher = sys.argv[1:]
cfg = toy_config(Path(work_dir), by_epoch=True, length=3, interval=1, val=False,
                 images_per_step=int(images), accumulate=int(accumulate), launcher=launcher)
cfg.model = dict(type='PlainNet', norm=norm)
cfg.train_dataloader.dataset = dict(type='PlainImages', images=8)
cfg.train_dataloader.sampler.shuffle = False
cfg.optim_wrapper.optimizer = dict(type='SGD', lr=0.5, momentum=0.9)
cfg.param_scheduler = []
cfg.default_hooks.checkpoint.save_best = None
cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', find_unused_parameters=False)
prepare_distributed(cfg)
runner = run(cfg)
del runner
finish_distributed()
"""


def trained_weights(work_dir, norm, processes, images, accumulate):
    program = work_dir.parent / 'program.py'
    program.write_text(PROGRAM)
    torchrun = ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={processes}']
    launcher = 'pytorch' if processes > 1 else 'none'
    run_python(
        '-W', 'ignore', *(torchrun if processes > 1 else []), program, work_dir, norm, images,
        accumulate, launcher, OMP_NUM_THREADS=1,
    )  # fmt: skip
    return read_checkpoint(work_dir / 'epoch_3.pth')['state_dict']


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='the processes would need a GPU each')
@pytest.mark.parametrize(('norm', 'equal'), [('GN', True), ('BN', False)])
def test_two_processes_with_two_steps_equal_one_process_with_four_images(tmp_path, norm, equal):
    # Bugs: the gradients of accumulated steps or of processes are summed instead of averaged; an
    # update is made after every step of a process.
    several = trained_weights(tmp_path / 'several', norm, processes=2, images=1, accumulate=2)
    one = trained_weights(tmp_path / 'one', norm, processes=1, images=4, accumulate=1)
    same = all(torch.allclose(one[k], several[k], rtol=1e-9, atol=1e-12) for k in one)
    assert same is equal
