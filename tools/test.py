"""Evaluate a detector: `python tools/test.py CONFIG CHECKPOINT [--out PREDICTIONS.pkl] ...`."""

from mmws.engine import cli, evaluate


def main() -> None:
    args = cli.parse_test_args()
    with cli.one_line_errors():
        cfg, checkpoint = cli.prepare_test(args)
    with cli.one_line_errors(*cli.RUN_ERRORS):
        evaluate(cfg, out=args.out, console=cli.console(args), checkpoint=checkpoint)


if __name__ == '__main__':
    main()
