"""What all estimators share: checking and standardising X, running the loop, callbacks."""
