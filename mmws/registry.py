"""Child registries of MMEngine's, scope ``mmws``.

For ``type='mmws.ConvWS'`` in a config, MMEngine imports this module by the name of the scope, and
then the modules in ``locations``, which register the classes. Configs need no ``custom_imports``.

Where MMEngine is not installed, the names of the layers are kept without it, for
:func:`mmws.convert`; building from configs then asks for MMEngine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmws.compat import is_installed, require_stack


class NameTable:
    """Classes by name, with as much of MMEngine's ``Registry`` as works without configs.

    Args:
        scope: Prefix that names may have, as in ``mmws.ConvWS``.
    """

    def __init__(self, scope: str) -> None:
        self._scope = scope
        self.module_dict: dict[str, Any] = {}

    def register_module(self, name: str | None = None) -> Callable[[Any], Any]:
        """Return a decorator that puts a class under ``name``, by default its own, in the table."""

        def register(module: Any) -> Any:
            self.module_dict[name or module.__name__] = module
            return module

        return register

    def get(self, name: str) -> Any:
        """Return the class of this name, with or without the scope; None if there is none."""
        return self.module_dict.get(name.removeprefix(f'{self._scope}.'))

    def build(self, *args: Any, **kwargs: Any) -> Any:
        """Raise an error that says what to install."""
        require_stack('building from a config')


MODELS: Any
DATASETS: Any
HOOKS: Any
METRICS: Any
TRANSFORMS: Any
if is_installed('mmengine'):
    from mmengine.registry import DATASETS as MMENGINE_DATASETS
    from mmengine.registry import HOOKS as MMENGINE_HOOKS
    from mmengine.registry import METRICS as MMENGINE_METRICS
    from mmengine.registry import MODELS as MMENGINE_MODELS
    from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
    from mmengine.registry import Registry

    _STUDY_TASKS = [
        f'mmws.study.{name}'
        for name in ('classification', 'generative', 'point_clouds', 'reinforcement')
    ]
    MODELS = Registry(
        'model',
        parent=MMENGINE_MODELS,
        scope='mmws',
        locations=[
            *('mmws.backbones', 'mmws.layers', 'mmws.surgery.converted'),
            *('mmws.data.raw_pipeline', 'mmws.study.form', *_STUDY_TASKS),
        ],
    )
    DATASETS = Registry(
        'dataset',
        parent=MMENGINE_DATASETS,
        scope='mmws',
        locations=_STUDY_TASKS,
    )
    HOOKS = Registry(
        'hook',
        parent=MMENGINE_HOOKS,
        scope='mmws',
        locations=['mmws.hooks', 'mmws.study.reinforcement'],
    )
    METRICS = Registry(
        'metric',
        parent=MMENGINE_METRICS,
        scope='mmws',
        locations=['mmws.evaluation', *_STUDY_TASKS],
    )
    TRANSFORMS = Registry(
        'transform',
        parent=MMENGINE_TRANSFORMS,
        scope='mmws',
        locations=['mmws.data.raw_pipeline'],
    )
else:
    MODELS, DATASETS, HOOKS, METRICS, TRANSFORMS = (NameTable('mmws') for _ in range(5))
