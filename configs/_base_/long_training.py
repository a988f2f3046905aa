"""Hooks for a training that takes days, with MMDetection's own `tools/train.py`.

A config that has it in `_base_` resumes exactly, keeps its checkpoints whole, saves on SIGTERM and
stops at NaN. The tools of mmws add these hooks by themselves. Lists do not merge: a config with
`custom_hooks` of its own has to name these as well.
"""

custom_imports = dict(imports=['mmws'])

default_hooks = dict(checkpoint=dict(type='mmws.DurableCheckpointHook'))
custom_hooks = [
    dict(type='mmws.CheckpointRecordHook'),
    dict(type='mmws.ExactResumeHook'),
    dict(type='mmws.DataWorkersHook'),
    dict(type='mmws.DivergenceHook'),
    dict(type='mmws.StopHook'),
]
