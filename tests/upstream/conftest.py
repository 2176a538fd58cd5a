"""The markers of Transformers' own tests, which `--strict-markers` would refuse."""

MARKERS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "generate",
    "is_pipeline_test",
    "is_staging_test",
    "is_tensor_parallel_test",
    "is_training_distributed_test",
    "is_training_test",
    "torch_compile_test",
    "torch_export_test",
)


def pytest_configure(config):
    for name in MARKERS:
        config.addinivalue_line("markers", f"{name}: of Transformers")
