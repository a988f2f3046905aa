"""Check the installation, and the data of a config, before a long job starts."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from typing import NamedTuple

import torch
from mmengine.config import Config

from mmws.compat import ops_are_compiled
from mmws.config.tree import kind, walk
from mmws.data.preflight import find_problems
from mmws.training_step.norm_check import NormCheck, describe


class Finding(NamedTuple):
    """One line of a diagnosis.

    Attributes:
        subject: What was examined, such as ``torch`` or ``data``.
        text: What was found; for a problem also what to do.
        ok: False for a problem.
    """

    subject: str
    text: str
    ok: bool = True

    def __str__(self) -> str:
        return f'{"ok     " if self.ok else "PROBLEM"}  {self.subject}: {self.text}'


def diagnose(cfg: Config | None = None) -> list[Finding]:
    """Examine the installation and, with a config, its data.

    Args:
        cfg: A config, whose training, validation and test data are checked; None for none.
    """
    findings = [Finding('python', platform.python_version())]
    findings += [_torch(), _torchvision(), *_gpus()]
    findings += [_package(name) for name in ('mmengine', 'mmcv', 'mmdet')]
    findings += [_ops(), *_pkg_resources()]
    if cfg is not None:
        problems = find_problems(cfg, ('train', 'val', 'test'))
        findings += [Finding('data', problem, ok=False) for problem in problems]
        if not problems:
            findings.append(Finding('data', 'files, classes and heads of the config fit'))
        findings += _norms_behind_standardized_layers(cfg)
    return findings


def _norms_behind_standardized_layers(cfg: Config) -> Iterator[Finding]:
    """Run a model with Weight Standardization on tiny images, and see whether norms follow it."""
    model_cfg = cfg.get('model')
    kinds = [str(kind(part)) for _, part in walk(model_cfg or {})]
    if not any('WS' in name or name == 'mmws.Converted' for name in kinds):
        return
    from mmengine.registry import MODELS, init_default_scope

    from mmws.testing.trial import find_run

    init_default_scope(cfg.get('default_scope') or 'mmdet')
    # A config need not name the preprocessor, but samples lack their sizes without one.
    model_cfg = {'data_preprocessor': dict(type='DetDataPreprocessor'), **model_cfg}
    names: list[str] = []
    try:
        model = MODELS.build(model_cfg)
        with NormCheck(model) as check:
            try:
                find_run(model, model_cfg)
            finally:
                names = check.unnormalized()  # also of a model that fails behind its layers
    except Exception as error:  # whatever a model raises that cannot be built or run here
        if not names:
            yield Finding(
                'model', f'not run on tiny images, so norms are not checked: {_reason(error)}'
            )
            return
    if names:
        yield Finding('model', describe(names), ok=False)
    else:
        yield Finding('model', 'a norm follows every layer with Weight Standardization')


def _torch() -> Finding:
    cuda = f'CUDA {torch.version.cuda}' if torch.version.cuda else 'without CUDA'
    return Finding('torch', f'{torch.__version__}, {cuda}')


def _torchvision() -> Finding:
    try:
        # Compiled operators load only into the version of PyTorch that they were compiled for.
        import_module('torchvision.ops').nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    except Exception as error:  # A broken installation raises any kind of error.
        return Finding(
            'torchvision',
            f'{_reason(error)}: install the version that belongs to torch {torch.__version__}',
            ok=False,
        )
    return Finding('torchvision', version('torchvision'))


def _gpus() -> Iterator[Finding]:
    if not torch.cuda.is_available():
        yield Finding('GPU', 'none that PyTorch can use: training runs on the CPU')
    for index in range(torch.cuda.device_count()):
        free, total = (size / 2**30 for size in torch.cuda.mem_get_info(index))
        name = torch.cuda.get_device_name(index)
        yield Finding(f'GPU {index}', f'{name}, {free:.1f} of {total:.1f} GiB free')


def _package(name: str) -> Finding:
    """Return which distribution provides an OpenMMLab package, and whether it can be imported."""
    distributions = sorted(set(packages_distributions().get(name, ())))
    installed = ', '.join(f'{d} {version(d)}' for d in distributions)
    if len(distributions) > 1:
        return Finding(
            name,
            f'{installed} have overwritten each other: uninstall both, then install one stack, '
            'mmws[onedl] or mmws[openmmlab]',
            ok=False,
        )
    try:
        module = import_module(name)
    except Exception as error:  # MMDetection raises AssertionError for a wrong version of MMCV.
        return Finding(
            name, f'{installed} cannot be imported: {_reason(error)}: reinstall one stack', ok=False
        )
    return Finding(name, installed or f'{module.__version__}, from {module.__path__[0]}')


def _ops() -> Finding:
    compiled = ops_are_compiled()
    if compiled is None:
        return Finding('mmcv ops', 'missing: `import mmws` before mmdet', ok=False)
    return Finding('mmcv ops', 'compiled' if compiled else 'from torchvision')


def _pkg_resources() -> Iterator[Finding]:
    """Check for pkg_resources, which upstream MMEngine imports and setuptools 82 has dropped."""
    try:
        version('mmengine')
    except PackageNotFoundError:
        return
    found = 'pkg_resources' in sys.modules or find_spec('pkg_resources') is not None
    yield Finding(
        'pkg_resources',
        'found' if found else "missing, mmengine needs it: run `pip install 'setuptools<82'`",
        ok=found,
    )


def _reason(error: Exception) -> str:
    return f'{type(error).__name__}: {" ".join(str(error).split())}'
