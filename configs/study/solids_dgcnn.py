"""Classification of point clouds of eight solids by a narrow DGCNN with BN: needs `mmws[pyg]`."""

_base_ = './digits_classification.py'

model = dict(_delete_=True, type='mmws.PointCloudClassifier', neighbours=10, width=32)
train_dataloader = dict(dataset=dict(_delete_=True, type='mmws.SolidClouds', split='train'))
val_dataloader = dict(dataset=dict(_delete_=True, type='mmws.SolidClouds', split='test'))
