"""From a recipe to artifacts: keys, the plan, and the run."""
