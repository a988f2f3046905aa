"""Check the installation, and the data of a config: `python tools/doctor.py [CONFIG]`."""

import argparse
import sys

import mmws  # noqa: F401
from mmws.config import load_config
from mmws.engine import cli
from mmws.engine.doctor import diagnose
from mmws.engine.quiet import quiet_stack


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Say what is installed and, with a config, whether its data are complete'
    )
    parser.add_argument('config', nargs='?', help='config file, or mmdet::folder/name.py')
    cli.add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with cli.one_line_errors(), quiet_stack():
        findings = diagnose(load_config(args.config, args.cfg_options) if args.config else None)
    print(cli.as_options('\n'.join(map(str, findings))))
    problems = sum(not finding.ok for finding in findings)
    if problems:
        sys.exit(f'error: {problems} problem{"s" if problems > 1 else ""} found')


if __name__ == '__main__':
    main()
