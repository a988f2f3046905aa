"""Train a detector: `python tools/train.py CONFIG [--work-dir DIR] [--resume] [--amp] ...`."""

from mmws import CheckpointMismatchError
from mmws.engine import cli, train


def main() -> None:
    args = cli.parse_train_args()
    with cli.one_line_errors():
        cfg = cli.prepare_train(args)
    with cli.one_line_errors(CheckpointMismatchError):
        train(cfg)


if __name__ == '__main__':
    main()
