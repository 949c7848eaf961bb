"""Zero-shot-learning methods: one file and one YAML a method, registered in ``benchmark.registries.METHODS``."""
