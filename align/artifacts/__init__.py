"""Committed folders: commit protocol, manifest, store, saved states, locks."""
