"""Zero-shot-learning methods: one file and one YAML a method."""

from benchmark.api import Method
from benchmark.registry import Registry, subclass_check

METHODS: Registry[type[Method]] = Registry("method", "methods", subclass_check(Method))
