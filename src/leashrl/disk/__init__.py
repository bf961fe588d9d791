"""Every file of a run's folder: its one writer and its one reader."""
