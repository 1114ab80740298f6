"""The Prefect flow derived from dvc.yaml, and the command line."""
