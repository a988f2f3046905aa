"""The kinds of problems that an annotation file or its images can have."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """One kind of problem.

    Attributes:
        severity: ``'error'``: training or evaluation would crash or be wrong; ``'warning'``: data
            are lost or look odd.
        what: What the entries are that have it; the number of them stands before it.
        remedy: What to do, or what becomes of the entries.
        mended: Whether :func:`mmws.data.mend.mend_coco` can correct it.
    """

    severity: str
    what: str
    remedy: str
    mended: bool = False


KINDS: dict[str, Kind] = {
    'unreadable': Kind('error', 'cannot be read', 'give the path of a JSON annotation file'),
    'not_coco': Kind(
        'error',
        'is not a COCO instances file',
        "it must be an object with the lists 'images', 'annotations' and 'categories'",
    ),
    'encoding': Kind(
        'error',
        'begins with a byte order mark, which MMDetection and pycocotools do not read',
        'save it as UTF-8 without the mark',
        mended=True,
    ),
    'bad_entries': Kind(
        'error',
        'entries lack a field or have a wrong value in it',
        'MMDetection reads this field of every entry',
    ),
    'duplicate_categories': Kind(
        'error',
        'category ids or names used twice',
        'MMDetection selects categories by name: make ids and names unique',
    ),
    'duplicate_image_ids': Kind('error', 'image ids used twice', 'renumber the images'),
    'duplicate_annotation_ids': Kind(
        'error', 'annotation ids used twice', 'renumber the annotations', mended=True
    ),
    'repeated_files': Kind(
        'warning',
        "image files that 'file_name' of several images names",
        'their objects are trained and scored as if the images were different: merge the images',
    ),
    'id_types': Kind(
        'error',
        'ids of another type than what they refer to',
        'text and number are never equal: write both alike',
        mended=True,
    ),
    'unknown_categories': Kind(
        'error',
        "annotations whose category_id is not in 'categories'",
        'they would be dropped without a word: add the categories or remove the annotations',
        mended=True,
    ),
    'no_annotations': Kind(
        'error',
        'no annotation that can be trained on or evaluated',
        'boxes must be [x, y, width, height] in pixels, at least 1x1, inside their image',
    ),
    'no_masks': Kind(
        'error',
        'annotations without a mask while the base config trains masks',
        "add 'segmentation' (a list of polygons, or RLE), or train boxes alone (`boxes=True`, or a "
        '`base` without a mask head)',
        mended=True,
    ),
    'mask_sizes': Kind(
        'error',
        'RLE masks of another size than their image',
        "make 'size' of the mask the image's [height, width]",
    ),
    'broken_masks': Kind(
        'error',
        "annotations whose 'segmentation' cannot be drawn",
        'training would end at them: correct or remove the masks',
        mended=True,
    ),
    'bad_masks': Kind(
        'warning',
        "'segmentation' with a polygon of fewer than 3 points or an odd number of coordinates",
        'training ignores such polygons, COCO evaluation fails on them: remove them',
        mended=True,
    ),
    'no_img_dir': Kind(
        'error',
        'its images are in none of the folders tried',
        "name the folder with `img_dirs`, or correct 'file_name'",
    ),
    'spelled_otherwise': Kind(
        'error',
        'image files are there under another spelling',
        "write file_name as the file is spelled, relative to the images' folder",
        mended=True,
    ),
    'missing_images': Kind(
        'error',
        'image files are missing',
        "put them there, correct 'file_name', or name the folder with `img_dirs`",
    ),
    'bad_images': Kind(
        'error',
        "files that 'file_name' names cannot be read as images",
        'training stops at them: replace them, or remove them from the file',
    ),
    'image_sizes': Kind(
        'error',
        "images whose size is not their 'width' and 'height'",
        'masks and boxes would be misplaced: write the sizes of the files',
    ),
    'turned_images': Kind(
        'warning',
        'image files have an EXIF orientation, by which reading turns them',
        'boxes and masks must be drawn on the turned image: look at them with tools/browse.py',
    ),
    'deep_images': Kind(
        'warning',
        'image files have 16 bits, of which reading keeps the upper 8',
        'an image whose values stay low trains nearly black: `raw_images=True` keeps all bits',
    ),
    'rich_images': Kind(
        'warning',
        'TIFF files have more channels than the three, or the first page, that reading keeps',
        '`raw_images=True` reads them all',
    ),
    'no_iscrowd': Kind(
        'warning',
        "annotations without 'iscrowd'",
        'COCO evaluation fails without it: add "iscrowd": 0',
        mended=True,
    ),
    'iscrowd_values': Kind(
        'error',
        "annotations whose 'iscrowd' is neither 0 nor 1",
        "any text is true in Python, '0' too, so that the objects would count as crowds",
        mended=True,
    ),
    'ignored': Kind(
        'warning',
        "annotations with 'ignore'",
        'training leaves them out, COCO evaluation counts them',
    ),
    'unknown_images': Kind(
        'warning',
        "annotations whose image_id is not in 'images'",
        'they are ignored',
        mended=True,
    ),
    'corner_boxes': Kind(
        'error',
        "boxes ('bbox') reach over the edge of their image, and all would fit as [x1, y1, x2, y2]",
        'COCO boxes are [x, y, width, height]: subtract the first corner from the second',
        mended=True,
    ),
    'far_boxes': Kind(
        'error',
        "boxes ('bbox') reach over the edge of their image by more than its size",
        'the loss would overflow: correct them',
        mended=True,
    ),
    'empty_boxes': Kind(
        'warning', 'boxes with a width or height <= 0', 'training drops them', mended=True
    ),
    'tiny_boxes': Kind('warning', 'boxes below 1x1 pixel', 'training drops them', mended=True),
    'outside_boxes': Kind(
        'warning', 'boxes entirely outside their image', 'training drops them', mended=True
    ),
    'partly_outside_boxes': Kind(
        'warning',
        'boxes more than 1 pixel over the edge of their image',
        'check the image sizes; are the boxes [x, y, width, height]?',
        mended=True,
    ),
    'images_without_annotations': Kind(
        'warning',
        'images without annotations',
        'training skips them unless filter_cfg.filter_empty_gt=False',
    ),
}
