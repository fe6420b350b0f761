"""The parts of an exported model: `trainables.export` puts them into one folder."""
