"""What a run has come to, for people: history, metrics, text and figures. Knows no MLflow."""
