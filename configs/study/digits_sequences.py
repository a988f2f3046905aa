"""Classification of handwritten digits from their rows, one after another, by an LSTM."""

_base_ = './digits_classification.py'

model = dict(
    _delete_=True,
    type='mmws.Classifier',
    backbone=dict(type='mmws.LSTM', input_size=8, hidden_size=64, batch_first=True),
    channels=64,
    num_classes=10,
)
train_dataloader = dict(dataset=dict(size=None))
val_dataloader = dict(dataset=dict(size=None))
