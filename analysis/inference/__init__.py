"""Tests, intervals and corrections as pure functions over arrays, each with its source."""
