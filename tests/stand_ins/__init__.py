"""What tests share: tiny models and data, a faulty server, a warm Python."""
