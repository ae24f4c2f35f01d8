"""Layers, backbones, heads, weights and SavedModels of models."""
