"""Tests of `payments up`, and the databases that all tests share."""
