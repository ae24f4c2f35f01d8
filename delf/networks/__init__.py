"""What a model is: layers, backbones, heads, weights and SavedModels."""
