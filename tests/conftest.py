import mmws  # noqa: F401  (before mmdet: it provides mmcv's ops)
