"""Metafiles say what the configs and the publishers say, and the page says what they say."""

from __future__ import annotations

from pathlib import Path

import mmdet
import modelindex
import pytest
import yaml

from mmws.checkpoints.published import lookup
from tests.helpers.paths import ROOT
from tools.dev.model_zoo import fill_tables, read_models

MODELS = {model['Name']: model for model in read_models(ROOT / 'model-index.yml')}


def ap(model: dict) -> dict[str, float]:
    results = {}
    for result in model.get('Results', []):
        results.update(result['Metrics'])
    return results


def test_metafiles_are_valid_for_mim(monkeypatch):
    monkeypatch.chdir(ROOT)
    index = modelindex.load('model-index.yml')
    assert index.check(silent=True) == []
    index.build_models_with_collections()
    assert {model.name for model in index.models} == MODELS.keys()


def test_every_config_has_an_entry():
    # Bug: a new config that mim and the page do not know of.
    folders = (p for p in ROOT.glob('configs/*') if p.name not in ('_base_', 'study'))
    configs = {str(p.relative_to(ROOT)) for folder in folders for p in folder.glob('*.py')}
    configs = {config for config in configs if not config.endswith('_digits.py')}
    assert configs == {model['Config'] for model in MODELS.values()}
    assert all(Path(model['Config']).stem == name for name, model in MODELS.items())


def test_the_page_is_up_to_date():
    page = (ROOT / 'docs' / 'model_zoo.md').read_text(encoding='utf-8')
    assert page == fill_tables(page, MODELS.values()), 'run: python tools/dev/model_zoo.py'


def test_a_model_without_a_table_is_named():
    with pytest.raises(ValueError, match='no <!-- table: '):
        fill_tables('no tables', MODELS.values())


def test_what_mmdet_published_is_what_its_metafiles_say():
    # Bug: the AP or the weights of another config.
    folder = Path(mmdet.__file__).parent / '.mim' / 'configs'
    published = {}
    for name in ('gn+ws', 'gn', 'mask_rcnn', 'faster_rcnn'):
        for model in yaml.safe_load((folder / name / 'metafile.yml').read_text())['Models']:
            published[model.get('Weights')] = ap(model), f'configs/{name}/metafile.yml'
    ours = {m['Weights']: m for m in MODELS.values() if 'Weights' in m}
    assert len(ours) == 12 + 2 + 9
    for weights, model in ours.items():
        assert published[weights] == (ap(model), model['Published by MMDetection'])
        known = lookup(weights)
        if known is not None:
            assert (known.box_ap, known.mask_ap) == tuple(map(ap(model).get, ('box AP', 'mask AP')))
