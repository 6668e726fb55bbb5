"""Opens real data, decides nothing: originals, Retrain models, measures after publication."""
