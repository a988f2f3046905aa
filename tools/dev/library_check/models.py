"""The models that are checked, chosen by a rule for each library. Nothing is downloaded.

The structure of a model is what a conversion can fail at, and not its size. Where a library has one
structure in several sizes, the rules take a small one.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from torch import nn

from mmws.config.tree import KeyPath, rewrite

Build = Callable[[], nn.Module]


def all_models(library: str) -> Iterator[tuple[str, Build]]:
    """Yield name and constructor of each model of a library.

    Raises:
        ImportError: if the library is not installed.
    """
    yield from LIBRARIES[library]()


def _torchvision() -> Iterator[tuple[str, Build]]:
    """Yield every model of torchvision below the size of its largest ones.

    The detectors that resize images resize them to 128 pixels, and not to 800, which takes minutes.
    """
    from torchvision.models import get_model, get_model_builder, list_models

    huge = ('_7gf', '_8gf', '_16gf', '_32gf', '_128gf', 'vit_h', 'vit_l', 'large')
    for name in list_models():
        if any(word in name for word in huge) and 'mobilenet' not in name:
            continue
        arguments = inspect.signature(get_model_builder(name)).parameters
        options: dict[str, Any] = {
            key: None for key in ('weights', 'weights_backbone') if key in arguments
        }
        if any(word in name for word in ('rcnn', 'fcos', 'retinanet')):
            options.update(min_size=128, max_size=256)
        yield name, partial(get_model, name, **options)


def _timm() -> Iterator[tuple[str, Build]]:
    """Yield one model of each module of timm: the first of the smallest size that a name tells.

    Models whose name tells more than 100 million parameters are left out, for they take minutes.
    """
    import timm

    sizes = ('atto', 'femto', 'pico', 'nano', 'xxs', 'xxtiny', 'xtiny', 'tiny', 'mini', 'small',
             'xs', 's', 't', 'b0', 'm0', 's0')  # fmt: skip
    for module in timm.list_modules():
        names = [n for n in timm.list_models(module=module) if not n.startswith('test_')]
        names = [n for n in names if not re.search(r'_\d{3}m(_|$)', n)]
        small = [n for size in sizes for n in names if re.search(rf'_{size}\d*(_|$)', n)]
        if names:
            name = (small or names)[0]
            yield name, partial(timm.create_model, name)


def _smp() -> Iterator[tuple[str, Build]]:
    """Yield every decoder of segmentation-models-pytorch."""
    import segmentation_models_pytorch as smp

    for name in sorted(smp.MODEL_ARCHITECTURES_MAPPING):
        cls = smp.MODEL_ARCHITECTURES_MAPPING[name]
        encoder = {'segformer': 'mit_b0', 'dpt': 'tu-vit_tiny_patch16_224'}.get(name, 'resnet18')
        yield name, partial(cls, encoder, encoder_weights=None)


def _ultralytics() -> Iterator[tuple[str, Build]]:
    """Yield every architecture file of ultralytics, in its smallest scale."""
    import torchvision
    import ultralytics

    without_weights = partial(torchvision.models.get_model, weights=None)

    def build(path: Path) -> nn.Module:
        with mock.patch.object(torchvision.models, 'get_model', lambda n, **_: without_weights(n)):
            kind = ultralytics.RTDETR if 'rtdetr' in path.stem else ultralytics.YOLO
            return kind(str(path)).model.float()

    folder = Path(ultralytics.__file__).parent / 'cfg' / 'models'
    for path in sorted(folder.glob('**/*.yaml')):
        yield path.stem, partial(build, path)


def _pytorchcv() -> Iterator[tuple[str, Build]]:
    """Yield the first model of each module of pytorchcv."""
    provider = importlib.import_module('pytorchcv.model_provider')
    seen: set[str] = set()
    for name, build in provider._models.items():
        if build.__module__ not in seen:
            seen.add(build.__module__)
            yield name, build


def _transformers() -> Iterator[tuple[str, Build]]:
    """Yield every model of transformers that classifies images, with few layers of each kind."""
    import transformers
    from transformers.models.auto import modeling_auto

    for kind, names in modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.items():
        name = names[0] if isinstance(names, tuple) else names

        def build(kind: str = kind, name: str = name) -> nn.Module:
            config = transformers.CONFIG_MAPPING[kind]()
            _make_shallow(config)
            return getattr(transformers, name)(config)

        yield name, build


def _make_shallow(config: Any) -> None:
    """Limit the layers of a config of transformers to two, and the blocks of a stage to one."""
    for key, value in vars(config).items():
        if key in ('num_hidden_layers', 'num_layers', 'n_layer') and isinstance(value, int):
            setattr(config, key, min(value, 2))
        elif key in ('depths', 'layer_depths', 'num_blocks', 'depth') and isinstance(value, list):
            setattr(config, key, [min(count, 1) for count in value])
        elif hasattr(value, 'to_dict'):  # of the images or of the text alone
            _make_shallow(value)


def _monai() -> Iterator[tuple[str, Build]]:
    """Yield the networks of MONAI for two-dimensional images."""
    from monai.networks import nets

    image: dict[str, Any] = dict(spatial_dims=2, in_channels=3, out_channels=2)
    unet: dict[str, Any] = dict(channels=(8, 16, 32), strides=(2, 2), norm='batch')
    options: dict[str, dict[str, Any]] = {
        'UNet': {**image, **unet},
        'BasicUNet': {**image, 'norm': ('batch', {})},
        'AttentionUnet': {**image, 'channels': (8, 16, 32), 'strides': (2, 2)},
        'SegResNet': {**image, 'norm': 'batch'},
        'DynUNet': {**image, 'kernel_size': [3] * 3, 'strides': [1, 2, 2],
                    'upsample_kernel_size': [2, 2], 'norm_name': 'batch'},
        'VNet': {**image, 'in_channels': 1},
        'DenseNet121': image,
        'EfficientNetBN': dict(model_name='efficientnet-b0', pretrained=False, spatial_dims=2),
        'SENet154': dict(spatial_dims=2, in_channels=3, num_classes=2),
        'SEResNet50': dict(spatial_dims=2, in_channels=3, num_classes=2),
        'HighResNet': {**image, 'norm_type': ('batch', {'affine': True})},
        'resnet18': dict(spatial_dims=2, n_input_channels=3, num_classes=2),
        'resnet50': dict(spatial_dims=2, n_input_channels=3, num_classes=2),
        'AutoEncoder': {**image, 'channels': (8, 16), 'strides': (2, 2), 'norm': 'batch'},
    }  # fmt: skip
    for name, arguments in options.items():
        yield name, partial(getattr(nets, name), **arguments)


def _torch_geometric() -> Iterator[tuple[str, Build]]:
    """Yield the basic networks of PyTorch Geometric with Batch Normalization."""
    from torch_geometric.nn import models

    for name in ('GCN', 'GraphSAGE', 'GIN', 'GAT', 'EdgeCNN'):
        for norm in ('batch_norm', 'layer_norm'):
            cls = getattr(models, name)
            yield f'{name}-{norm}', partial(cls, 16, 32, 3, 7, norm=norm)


def _torchaudio() -> Iterator[tuple[str, Build]]:
    """Yield the models of torchaudio that take one waveform or one spectrum."""
    from torchaudio import models

    yield 'Wav2Letter', lambda: models.Wav2Letter(num_classes=8)
    yield 'ConvTasNet', lambda: models.ConvTasNet(msk_num_layers=2, msk_num_stacks=1)
    yield 'wav2vec2_base', lambda: models.wav2vec2_base()
    yield 'hubert_base', lambda: models.hubert_base()
    yield 'HDemucs', lambda: models.hdemucs_low(sources=['a', 'b'])


def _efficientnet_pytorch() -> Iterator[tuple[str, Build]]:
    """Yield the smaller models of efficientnet_pytorch."""
    from efficientnet_pytorch import EfficientNet

    for name in ('efficientnet-b0', 'efficientnet-b1', 'efficientnet-b2'):
        yield name, partial(EfficientNet.from_name, name)


def _torchxrayvision() -> Iterator[tuple[str, Build]]:
    """Yield the network of torchxrayvision that needs no weights."""
    from torchxrayvision import models

    yield 'DenseNet', lambda: models.DenseNet(weights=None)


def _kornia() -> Iterator[tuple[str, Build]]:
    """Yield the local features of kornia."""
    from kornia import feature

    for name in ('HardNet', 'HardNet8', 'HyNet', 'TFeat', 'SOSNet', 'KeyNet'):
        yield name, partial(getattr(feature, name), pretrained=False)


def _openmmlab(package: str) -> Iterator[tuple[str, Build]]:
    """Yield one model of each folder of a package of OpenMMLab: the first of a small backbone."""
    from tools.dev.zoo_check.run import zoo_configs

    root = Path(importlib.import_module(package).__file__ or '').parent / '.mim' / 'configs'
    folders: dict[str, list[str]] = {}
    for name in zoo_configs(root):
        # No models of their own: parts of configs, and models whose branches are fused already.
        if not re.search(r'/(_|deploy/)', name):
            folders.setdefault(name.partition('/')[0], []).append(name)
    for names in folders.values():
        small = [n for n in names if re.search(r'[_-](r18|tiny|mit-b0|hr18s|resnet18)[_-]', n)]
        medium = [n for n in names if re.search(r'[_-](r50|small|s|resnet50)[_-]', n)]
        name = (small or medium or names)[0]
        yield name, partial(_build_config, package, root / name)


def _build_config(package: str, path: Path) -> nn.Module:
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    from tools.dev.zoo_check.check import tiny_config

    # MMPretrain's multimodal models are for releases of transformers before 5, beside which alone
    # they can be imported. MMSegmentation imports MMPretrain.
    dependency: Any = importlib.import_module('mmpretrain.utils.dependency')
    dependency.WITH_MULTIMODAL = False
    importlib.import_module(f'{package}.utils').register_all_modules(init_default_scope=False)
    cfg = Config.fromfile(path)
    init_default_scope(cfg.get('default_scope') or package)
    registry = importlib.import_module(f'{package}.registry')
    return registry.MODELS.build(rewrite(tiny_config(cfg.model), _small_images, ('model',)))


def _small_images(path: KeyPath, value: Any) -> Any:
    """Limit the image size that a model is built for, which costs minutes, to 224 pixels."""
    if path[-1] not in ('img_size', 'image_size'):
        return value
    return min(value, 224) if isinstance(value, int) else [min(size, 224) for size in value]


LIBRARIES: dict[str, Callable[[], Iterator[tuple[str, Build]]]] = {
    'torchvision': _torchvision,
    'timm': _timm,
    'segmentation_models_pytorch': _smp,
    'ultralytics': _ultralytics,
    'pytorchcv': _pytorchcv,
    'transformers': _transformers,
    'monai': _monai,
    'torch_geometric': _torch_geometric,
    'torchaudio': _torchaudio,
    'efficientnet_pytorch': _efficientnet_pytorch,
    'torchxrayvision': _torchxrayvision,
    'kornia': _kornia,
    'mmpretrain': partial(_openmmlab, 'mmpretrain'),
    'mmseg': partial(_openmmlab, 'mmseg'),
}
