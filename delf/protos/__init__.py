"""File formats and configurations, as protocol buffers."""
