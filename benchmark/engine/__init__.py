"""The engine: from settings to results, by way of a plan, launchers, runs and the evaluation."""
