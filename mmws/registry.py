"""Child registries of MMEngine's, scope ``mmws``.

``type='mmws.ConvWS'`` in any config makes MMEngine import this module by the name of the scope;
``locations`` then imports the modules that fill the registry. So no ``custom_imports`` is needed.
"""

from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry

MODELS = Registry(
    'model',
    parent=MMENGINE_MODELS,
    scope='mmws',
    locations=['mmws.backbones', 'mmws.layers', 'mmws.surgery'],
)
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmws', locations=['mmws.hooks'])
METRICS = Registry('metric', parent=MMENGINE_METRICS, scope='mmws', locations=['mmws.evaluation'])
