"""A run's record and what it means: vocabulary, events, journal, directory, state, tables."""
