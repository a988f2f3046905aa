"""What several tests share: paths, processes, small configs, random cases, fixtures."""
