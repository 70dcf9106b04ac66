"""The linters as tests."""
