"""The hyper-parameter search: its space and config, trials, methods, workers, report and figures."""
