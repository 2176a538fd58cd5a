"""What the recipes run on: configuration, data, tasks, the Trainer's callbacks, results and their comparison."""
