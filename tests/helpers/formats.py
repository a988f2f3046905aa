"""Write a COCO data set in the formats that others use, as independent references for importers."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import yaml
from pycocotools import mask as mask_utils


def as_yolo(data: dict, images: Path, root: Path) -> Path:
    """Write YOLO segmentation: one polygon an object, relative to the size."""
    (root / 'images').mkdir(parents=True)
    (root / 'labels').mkdir()
    names = {i: c['name'] for i, c in enumerate(data['categories'])}
    labels = {c['id']: i for i, c in enumerate(data['categories'])}
    (root / 'data.yaml').write_text(yaml.safe_dump({'train': 'images', 'names': names}))
    for image, objects in _by_image(data):
        shutil.copy(images / image['file_name'], root / 'images')
        lines = []
        for annotation in objects:
            first, *others = annotation['segmentation']
            # YOLO has one polygon an object: a cut of no width leads to each other part and back.
            outline = [*first, *first[:2]]
            for part in others:
                outline += [*part, *part[:2], *first[:2]]
            sizes = [image['width'], image['height']] * (len(outline) // 2)
            numbers = (f'{value / size:.6f}' for value, size in zip(outline, sizes))
            lines.append(f'{labels[annotation["category_id"]]} {" ".join(numbers)}\n')
        name = Path(image['file_name']).with_suffix('.txt').name
        (root / 'labels' / name).write_text(''.join(lines))
    return root


def as_labelme(data: dict, images: Path, root: Path) -> Path:
    """Write LabelMe: a JSON file beside each image; parts of an object share a group."""
    root.mkdir(parents=True)
    names = {c['id']: c['name'] for c in data['categories']}
    for image, objects in _by_image(data):
        shutil.copy(images / image['file_name'], root)
        shapes = [
            {
                'label': names[annotation['category_id']],
                'points': [list(point) for point in zip(polygon[::2], polygon[1::2])],
                'group_id': annotation['id'] if len(annotation['segmentation']) > 1 else None,
                'shape_type': 'polygon',
                'flags': {},
            }
            for annotation in objects
            for polygon in annotation['segmentation']
        ]
        content = {
            'version': '5.0.1', 'flags': {}, 'shapes': shapes, 'imageData': None,
            'imagePath': Path(image['file_name']).name,
            'imageHeight': image['height'], 'imageWidth': image['width'],
        }  # fmt: skip
        name = Path(image['file_name']).with_suffix('.json').name
        (root / name).write_text(json.dumps(content))
    return root


def as_cvat(data: dict, images: Path, root: Path) -> Path:
    """Write CVAT for images 1.1: one XML file; parts of an object share a group."""
    (root / 'images').mkdir(parents=True)
    names = {c['id']: c['name'] for c in data['categories']}
    tree = ElementTree.Element('annotations')
    ElementTree.SubElement(tree, 'version').text = '1.1'
    task = ElementTree.SubElement(ElementTree.SubElement(tree, 'meta'), 'task')
    ElementTree.SubElement(task, 'size').text = str(len(data['images']))
    labels = ElementTree.SubElement(task, 'labels')
    for name in names.values():
        ElementTree.SubElement(ElementTree.SubElement(labels, 'label'), 'name').text = name
    for image, objects in _by_image(data):
        shutil.copy(images / image['file_name'], root / 'images')
        item = ElementTree.SubElement(
            tree, 'image', id=str(image['id']), name=Path(image['file_name']).name,
            width=str(image['width']), height=str(image['height']),
        )  # fmt: skip
        for annotation in objects:
            for polygon in annotation['segmentation']:
                points = zip(polygon[::2], polygon[1::2])
                part = ElementTree.SubElement(
                    item, 'polygon', label=names[annotation['category_id']], occluded='0',
                    points=';'.join(f'{x:.2f},{y:.2f}' for x, y in points),
                )  # fmt: skip
                if len(annotation['segmentation']) > 1:
                    part.set('group_id', str(annotation['id']))
    ElementTree.ElementTree(tree).write(root / 'annotations.xml')
    return root


def as_voc(data: dict, images: Path, root: Path) -> Path:
    """Write VOC's boxes, without lists of the splits."""
    for folder in ('JPEGImages', 'Annotations'):
        (root / folder).mkdir(parents=True)
    names = {c['id']: c['name'] for c in data['categories']}
    for image, objects in _by_image(data):
        shutil.copy(images / image['file_name'], root / 'JPEGImages')
        tree = ElementTree.Element('annotation')
        size = ElementTree.SubElement(tree, 'size')
        for key in ('width', 'height'):
            ElementTree.SubElement(size, key).text = str(image[key])
        for annotation in objects:
            item = ElementTree.SubElement(tree, 'object')
            ElementTree.SubElement(item, 'name').text = names[annotation['category_id']]
            box = ElementTree.SubElement(item, 'bndbox')
            x, y, w, h = annotation['bbox']
            corners = {'xmin': x + 1, 'ymin': y + 1, 'xmax': x + w, 'ymax': y + h}
            for key, value in corners.items():
                ElementTree.SubElement(box, key).text = str(value)
        name = Path(image['file_name']).with_suffix('.xml').name
        ElementTree.ElementTree(tree).write(root / 'Annotations' / name)
    return root


def objects_of(*files: str | Path) -> dict[str, list[tuple[str, list[float], dict | None]]]:
    """Return class, box and RLE of each object by the name of its image, in the files' order."""
    found: dict[str, list] = defaultdict(list)
    for file in files:
        data = json.loads(Path(file).read_text())
        names = {c['id']: c['name'] for c in data['categories']}
        images = {i['id']: i for i in data['images']}
        for image in images.values():
            found[Path(image['file_name']).name] += []
        for annotation in data['annotations']:
            image = images[annotation['image_id']]
            mask = annotation.get('segmentation')
            if isinstance(mask, list):
                parts = mask_utils.frPyObjects(mask, image['height'], image['width'])
                mask = mask_utils.merge(parts)
            found[Path(image['file_name']).name].append(
                (names[annotation['category_id']], annotation['bbox'], mask)
            )
    return dict(found)


def _by_image(data: dict) -> list[tuple[dict, list[dict]]]:
    annotations = defaultdict(list)
    for annotation in data['annotations']:
        annotations[annotation['image_id']].append(annotation)
    return [(image, annotations[image['id']]) for image in data['images']]
