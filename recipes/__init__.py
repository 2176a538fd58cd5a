"""What a user edits and runs: recipes as YAML files, benchmarks, examples, and the replication of the paper."""
