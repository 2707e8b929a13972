"""Base models compared: presets, tasks, recipes, the runner and the table of results."""
