"""The journal shown in MLflow: what is to be written, written exactly once, and read again."""
