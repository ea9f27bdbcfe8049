"""The mutants, a module for each part of the project; each has a list MUTANTS."""
