"""Hyperparameter search: the space, a trial and its score, and the study that Optuna keeps."""
