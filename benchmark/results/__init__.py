"""The record of a run, the folder that records are stored in, and the audit of what is in there."""
