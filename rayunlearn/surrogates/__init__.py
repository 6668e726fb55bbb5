"""Pictures that stand in for training data that is gone: drawn by arithmetic, or cut from photographs."""
