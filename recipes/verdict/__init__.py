"""What signed attention is good for at equal budgets, decided before the runs: `PLAN.md`, then `python -m recipes.verdict run`."""
