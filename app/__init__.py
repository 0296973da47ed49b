"""What the commands share: the command line, the configuration, one training run, the drawing window."""
