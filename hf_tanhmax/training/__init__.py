"""Training for the recipes: configuration, data, tasks, the Trainer's callbacks, results and their comparison."""
