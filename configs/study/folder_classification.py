"""Classification of the images in a folder for each of ten classes, such as CIFAR-10's, with BN.

    python tools/train.py configs/study/folder_classification.py --cfg-options \
        train_dataloader.dataset.data_root=cifar10/train \
        val_dataloader.dataset.data_root=cifar10/test
"""

_base_ = './digits_classification.py'

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmws.FolderOfImages',
        data_root='data/digit_images/train',
        size=32,
        flip=False,
    )
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True, type='mmws.FolderOfImages', data_root='data/digit_images/val', size=32
    )
)
# At 32x32 the last feature map of the four stages would be 2x2.
model = dict(backbone=dict(strides=(1, 1, 2, 1)))
