"""Train a detector: `python tools/train.py CONFIG [--work-dir DIR] [--resume] [--amp] ...`."""

from mmws.engine import cli, train


def main() -> None:
    args = cli.parse_train_args()
    with cli.one_line_errors():
        cfg = cli.prepare_train(args)
    with cli.one_line_errors(*cli.RUN_ERRORS):
        train(cfg, cli.console(args))


if __name__ == '__main__':
    main()
