"""Results of runs: their one schema, mean and spread over seeds, and Markdown tables."""

# Keys of a recipe that had other names before; results that were written then are read with the new ones.
RENAMED_KEYS = {
    "epochs": "num_train_epochs",
    "hub_private": "hub_private_repo",
    "learning_rate_schedule": "lr_scheduler_type",
    "max_gradient_norm": "max_grad_norm",
    "warmup_share": "warmup_steps",
}
