"""A Hub on this machine: what `huggingface_hub` publishes to and loads from, over real HTTP, with faults that a test can switch on."""
